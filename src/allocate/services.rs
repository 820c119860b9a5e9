//! Addresses of services.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Allocator, PRUNE};
use crate::diagnostic::{Code, Diagnostic};
use crate::intent::{ServiceAddress, ServiceId};

impl Allocator<'_> {
    pub(super) fn services(&mut self) -> Vec<Option<Ipv4Addr>> {
        let intent = self.intent;
        let network = intent.cluster.service_network;
        let first = u32::from(network.network()).saturating_add(1);
        let last = u32::from(network.broadcast()).saturating_sub(1);
        let mut owners: BTreeMap<u32, ServiceId> = BTreeMap::new();
        for (id, service) in intent.services() {
            if let ServiceAddress::Fixed(fixed) = service.address {
                owners.insert(fixed.value.into(), id);
            }
        }
        let mut kept: Vec<Option<u32>> = Vec::with_capacity(intent.services().len());
        for (id, service) in intent.services() {
            kept.push(match service.address {
                ServiceAddress::Headless => None,
                ServiceAddress::Fixed(fixed) => Some(fixed.value.into()),
                ServiceAddress::Allocated => self.keep_service(id, first..=last, &mut owners),
            });
        }
        let mut exhausted = None;
        let mut addresses = Vec::with_capacity(kept.len());
        for ((id, service), kept) in intent.services().zip(kept) {
            if service.address == ServiceAddress::Headless {
                addresses.push(None);
                continue;
            }
            let key = format!("service/{}", intent.service_name(id));
            let free = |number: u32| !owners.contains_key(&number);
            let address = kept.or_else(|| self.new_address(&key, first, last, free));
            if let Some(address) = address {
                owners.insert(address, id);
            } else {
                exhausted = exhausted.or(Some(service));
            }
            addresses.push(address.map(Ipv4Addr::from));
        }
        if let Some(service) = exhausted {
            let message = format!("{network} has no address left for service `{}`", service.name);
            let any = self.withheld.keys().any(|address| network.contains(address));
            let help = "choose a larger `cluster.serviceNetwork`; services will move to it";
            self.report.push(
                Diagnostic::new(Code::ServiceAddressesExhausted, message)
                    .at(service.place)
                    .help(if any { PRUNE } else { help }),
            );
        }
        addresses
    }

    /// The address of the lock file, unless the desired state gives it to another.
    fn keep_service(
        &mut self,
        id: ServiceId,
        range: std::ops::RangeInclusive<u32>,
        owners: &mut BTreeMap<u32, ServiceId>,
    ) -> Option<u32> {
        let name = self.intent.service_name(id);
        let locked = *self.lock.services.get(&name)?;
        let number = u32::from(locked);
        if !range.contains(&number) {
            return None;
        }
        let Some(owner) = owners.get(&number) else {
            owners.insert(number, id);
            return Some(number);
        };
        if self.intent[*owner].address == ServiceAddress::Allocated {
            let owner = self.intent.service_name(*owner);
            self.report.push(self.conflict([("services", &name), ("services", &owner)], locked));
        }
        None
    }
}
