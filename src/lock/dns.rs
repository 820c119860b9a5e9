//! Asking name servers for the addresses of names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use crate::diagnostic::{Code, Diagnostic};
use crate::value::{DnsName, NameServer};

/// How many names are asked for at once.
const AT_ONCE: usize = 16;
/// How long a name server has to answer, each of the times that it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// What a name server says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its IPv4 addresses, at least one.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// How long they may be kept, in seconds: the least along the way to them.
    pub ttl: u32,
}

/// Asks the servers, in their order, for the IPv4 addresses of each name; without servers those
/// of `/etc/resolv.conf`. Neither the hosts file nor search domains play a part, nothing is
/// cached, and an answer that UDP has no room for is asked for again over TCP.
pub fn ask(
    servers: &[NameServer],
    names: impl IntoIterator<Item = DnsName>,
) -> Result<BTreeMap<DnsName, Result<Answer, String>>, Diagnostic> {
    let servers = config(servers)?;
    let internal = |what: &dyn std::fmt::Display| {
        Diagnostic::new(Code::Internal, format!("names can't be resolved: {what}"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal(&error))?;
    runtime.block_on(async {
        // One for each server: with all in one, a silent server takes up the time of the others,
        // and one that fails is believed.
        let resolver = |server| {
            let config = ResolverConfig::from_name_servers(vec![server]);
            let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(options()).build()
        };
        let resolvers: Result<Vec<TokioResolver>, _> = servers.into_iter().map(resolver).collect();
        let resolvers = resolvers.map_err(|error| internal(&error))?;
        let mut names = names.into_iter();
        let mut asked = tokio::task::JoinSet::new();
        let mut answers = BTreeMap::new();
        loop {
            while asked.len() < AT_ONCE
                && let Some(name) = names.next()
            {
                let resolvers = resolvers.clone();
                asked.spawn(async move {
                    let answer = ask_in_turn(&resolvers, &name).await;
                    (name, answer)
                });
            }
            match asked.join_next().await {
                Some(Ok((name, answer))) => answers.insert(name, answer),
                Some(Err(error)) => return Err(internal(&error)),
                None => return Ok(answers),
            };
        }
    })
}

/// RF158: there is somebody to ask.
fn config(servers: &[NameServer]) -> Result<Vec<NameServerConfig>, Diagnostic> {
    Ok(if servers.is_empty() {
        let system = hickory_resolver::system_conf::read_system_conf().map_err(|error| {
            let message = format!("`/etc/resolv.conf` names no name server: {error}");
            Diagnostic::new(Code::NoNameServers, message)
                .help("list them under `cluster.dns.servers`, or give `--server`")
        });
        system?.0.name_servers().to_vec()
    } else {
        let server = |server: &NameServer| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = server.0.port();
                connection
            });
            NameServerConfig::new(server.0.ip(), true, connections.to_vec())
        };
        servers.iter().map(server).collect()
    })
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = PATIENCE;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options
}

/// Asks one server after the other, until one knows the name or knows that there is none.
async fn ask_in_turn(resolvers: &[TokioResolver], name: &DnsName) -> Result<Answer, String> {
    let mut failure = NetError::NoConnections;
    for resolver in resolvers {
        match ask_for(resolver, name).await {
            Ok(answer) => return answer,
            Err(error) => failure = error,
        }
        let known = |code| matches!(code, ResponseCode::NXDomain | ResponseCode::NoError);
        if let NetError::Dns(DnsError::NoRecordsFound(none)) = &failure
            && known(none.response_code)
        {
            break;
        }
    }
    Err(in_words(&failure))
}

async fn ask_for(
    resolver: &TokioResolver,
    name: &DnsName,
) -> Result<Result<Answer, String>, NetError> {
    // The final dot keeps search domains out.
    let lookup = resolver.lookup(format!("{name}."), RecordType::A).await?;
    let mut addresses = BTreeSet::new();
    let mut ttl = u32::MAX;
    for record in lookup.answers() {
        if let RData::A(address) = record.data {
            addresses.insert(address.0);
        }
        // The names on the way to the addresses may change as well.
        ttl = ttl.min(record.ttl);
    }
    if addresses.is_empty() {
        return Ok(Err(NO_ADDRESS.to_owned()));
    }
    Ok(Ok(Answer { addresses, ttl }))
}

const NO_ADDRESS: &str = "it has no IPv4 address";

fn in_words(error: &NetError) -> String {
    match error {
        NetError::Timeout | NetError::NoConnections => "no name server answers".to_owned(),
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => "it does not exist (NXDOMAIN)".to_owned(),
            ResponseCode::NoError => NO_ADDRESS.to_owned(),
            code => code_in_words(code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => code_in_words(*code),
        other => other.to_string(),
    }
}

fn code_in_words(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "the name server failed (SERVFAIL)".to_owned(),
        ResponseCode::Refused => "the name server refused (REFUSED)".to_owned(),
        other => format!("the name server says: {other}"),
    }
}
