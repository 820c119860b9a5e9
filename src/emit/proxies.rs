//! The configuration of proxies, and what starts them.

use minijinja::{Value, context};

use super::Renderer;
use crate::artifact::node::Router;
use crate::artifact::proxy::{Proxy, run_directory, squid_name, unit};
use crate::artifact::{host, layout};
use crate::dataplane::origin::digest;
use crate::diagnostic::Diagnostic;
use crate::intent::{Site, Upstream, Verdict};
use crate::lower::proxy::{ProxyConfig, ProxyRules};
use crate::value::Port;

impl Renderer<'_> {
    /// The files of a proxying router, by their names in its directory.
    pub(super) fn proxy(
        &self,
        router: &Router,
        proxy: Proxy,
        config: &ProxyConfig<'_>,
    ) -> Result<Vec<(String, Vec<u8>)>, Diagnostic> {
        let ProxyConfig { address, name_servers, rules_of } = config;
        let (rules, ports) = match rules_of {
            ProxyRules::Sites(rules) => (rules.iter().map(rule).collect::<Vec<_>>(), Vec::new()),
            ProxyRules::Ports(ports) => (Vec::new(), ports.iter().map(port).collect()),
        };
        let name_servers: Vec<String> = name_servers.iter().map(ToString::to_string).collect();
        let values = context! {
            name => router.name.as_str(),
            netns => router.netns.as_str(),
            namespaces => host::NETNS,
            address => address.to_string(),
            source => router.outside.source.to_string(),
            http_port => Port::HTTP_PROXY.get(),
            program => proxy.program(),
            config => proxy.config(),
            script => super::outside_script(router),
            run => run_directory(&router.name),
            unit => unit(router.name.as_str()),
            squid => proxy == Proxy::Squid,
            squid_name => squid_name(router.cookie),
            rules,
            ports,
            name_servers,
        };
        Ok(vec![
            (proxy.config().to_owned(), self.render(proxy.config(), values.clone())?),
            (layout::PROXY.to_owned(), self.render("proxy.sh", values.clone())?),
            (unit(router.name.as_str()), self.render("router.service", values)?),
        ])
    }
}

/// One rule of squid. Its name follows from what it is about, so that others may come and go. Squid
/// takes two lists of one name for one list, and 63 bytes of a name.
fn rule(rule: &crate::intent::SiteRule) -> Value {
    let verdict = match rule.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    let text = rule.site.to_string();
    // Names are compared as the client wrote them: who owns an address may name it as he likes.
    let condition = match &rule.site {
        Site::Any => None,
        Site::Domain(domain) => Some(format!("dstdomain -n .{domain}")),
        Site::Name(name) => Some(format!("dstdomain -n {name}")),
        Site::Network(_) => Some(format!("dst {text}")),
    };
    let acl = match condition {
        Some(_) => format!("rf_{}", digest(&text)),
        None => "all".to_owned(),
    };
    context! { verdict, text, condition, acl }
}

/// One port of haproxy.
fn port(port: &crate::intent::ProxyPort) -> Value {
    let (to, resolves) = match &port.to {
        Upstream::Address(address) => (address.to_string(), false),
        Upstream::Name(name) => (name.to_string(), true),
    };
    context! { port => port.port.get(), to, to_port => port.to_port.get(), resolves }
}
