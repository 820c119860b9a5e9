//! The table of diagnostic codes. `codes.md` beside it explains each.

use std::fmt;
use std::str::FromStr;

/// Whether a finding stops the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is written or applied.
    Error,
    /// Shown; the run goes on.
    Warning,
}

macro_rules! codes {
    ($($name:ident = $number:literal $severity:ident,)*) => {
        /// The kind of a finding, printed as `RF` and three digits. Numbers never change their
        /// meaning and are never given twice. Each is explained in `codes.md` under its number.
        #[allow(missing_docs)] // explained in `codes.md`, for users and readers alike
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($name = $number,)* }

        impl Code {
            /// Every code there is, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What the code means for the run, unless `--deny-warnings` is given.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    // Reading the input.
    Unreadable = 1 Error,
    NotUtf8 = 2 Error,
    TooLarge = 3 Error,
    Syntax = 4 Error,
    UnknownKey = 5 Error,
    MissingKey = 6 Error,
    WrongType = 7 Error,
    BadValue = 8 Error,
    DuplicateKey = 9 Error,
    Version = 10 Error,
    // Values.
    BadName = 12 Error,
    BadAddress = 13 Error,
    BadCidr = 14 Error,
    HostBits = 15 Error,
    Ipv6 = 16 Error,
    BadInterface = 17 Error,
    BadMac = 18 Error,
    BadLabel = 19 Error,
    BadNetns = 20 Error,
    VnidRange = 21 Error,
    PortRange = 22 Error,
    // Names.
    DefinedTwice = 30 Error,
    UnknownNode = 31 Error,
    UnknownProject = 32 Error,
    SelectorMatchesNothing = 33 Warning,
    ModeCannot = 34 Error,
    ConflictingKeys = 35 Error,
    // Addresses.
    NetworksOverlap = 40 Error,
    HostPrefix = 41 Error,
    SubnetOutsideNetworks = 42 Error,
    SubnetsOverlap = 43 Error,
    SubnetsExhausted = 44 Error,
    AddressesExhausted = 45 Error,
    PodOutsideSubnet = 46 Error,
    PodReservedAddress = 47 Error,
    AddressTwice = 48 Error,
    AddressInsideCluster = 49 Error,
    MacTwice = 50 Error,
    InterfaceTwice = 51 Error,
    InterfaceReserved = 52 Error,
    NetnsTwice = 53 Error,
    UplinkGateway = 54 Error,
    ReservedOutside = 55 Error,
    // Projects.
    VnidTwice = 60 Error,
    JoinItself = 61 Error,
    JoinGlobal = 62 Error,
    JoinTwice = 63 Error,
    JoinCycle = 64 Error,
    JoinDefault = 65 Error,
    IsolateJoined = 66 Error,
    IsolateDefault = 67 Error,
    PartialMulticast = 68 Warning,
    // Egress policies.
    PolicyGlobal = 70 Error,
    PolicyJoined = 71 Error,
    PolicyTwice = 72 Error,
    PolicyEmpty = 74 Error,
    PolicyTooLong = 75 Error,
    PolicyZeroHost = 76 Error,
    RuleNeverMatches = 77 Warning,
    RuleInsideCluster = 78 Warning,
    RuleVerdict = 79 Error,
    // Egress routers.
    RouterPlatform = 80 Error,
    RouterSourceTwice = 81 Error,
    RouterSourceTaken = 82 Error,
    RouterSourceOutside = 83 Error,
    RouterGatewayOutside = 84 Error,
    RouterGatewayIsSource = 85 Error,
    RouterNoNode = 86 Error,
    RouterManyNodes = 87 Error,
    RouterReplicas = 88 Error,
    RouterFallbackLast = 89 Error,
    RouterPortTwice = 90 Error,
    RouterDestination = 91 Error,
    RouterMacFilter = 92 Warning,
    // Egress IPs.
    EgressIpTwice = 93 Error,
    EgressIpTaken = 94 Error,
    EgressIpNoNode = 95 Error,
    EgressIpShared = 96 Error,
    EgressIpsTwice = 97 Error,
    EgressRange = 98 Error,
    // Lock file and output.
    LockMissing = 100 Error,
    LockStale = 101 Error,
    LockUnreadable = 102 Error,
    LockConflict = 103 Error,
    LockRetired = 104 Error,
    NetworkLeft = 105 Error,
    AddressHandedOn = 106 Warning,
    OutputForeign = 110 Error,
    OutputLeftover = 111 Warning,
    OutputUnwritable = 112 Error,
    CookieUnknown = 113 Error,
    // Services in front of egress routers.
    ServiceRouterType = 114 Error,
    UnknownRouter = 115 Error,
    ServiceRouterPort = 116 Error,
    // Services.
    ServicePortTwice = 120 Error,
    ServicePortName = 121 Error,
    ServiceTargetPort = 122 Error,
    ServiceTargetPartial = 123 Warning,
    ServiceAddressOutside = 124 Error,
    ServiceAddressReserved = 125 Error,
    ServiceAddressTwice = 126 Error,
    ServiceAddressesExhausted = 127 Error,
    PodPortTwice = 128 Error,
    ServiceSctpPort = 129 Error,
    // Node ports and load balancers.
    NodePortRange = 130 Error,
    NodePortTwice = 131 Error,
    NodePortType = 132 Error,
    NodePortHeadless = 133 Error,
    BalancerPortTwice = 134 Error,
    BalancerPortTaken = 135 Error,
    BalancerPortShadows = 136 Warning,
    NodePortsExhausted = 137 Error,
    NodePortAffinity = 138 Warning,
    BlockWhere = 139 Error,
    BlockAddress = 140 Error,
    BlockNothing = 141 Warning,
    BlockUplink = 142 Error,
    // Bandwidth.
    BadBandwidth = 143 Error,
    // Services for hosts outside, and for very many.
    ServiceEndpoint = 144 Error,
    ServiceEndpointDenied = 145 Error,
    ServiceEndpointType = 146 Error,
    ServiceTooLarge = 147 Error,
    // Names and name servers.
    BadDnsName = 150 Error,
    NameWildcard = 151 Error,
    NameUnresolved = 152 Error,
    NameFails = 153 Error,
    NameKept = 154 Warning,
    NamesTooOld = 155 Error,
    NameAddress = 156 Error,
    NameManyAddresses = 157 Error,
    NoNameServers = 158 Error,
    RuleDestination = 159 Error,
    // Uplinks.
    UplinkMtu = 160 Error,
    GatewayBridge = 161 Error,
    // Multicast DNS.
    MdnsName = 162 Error,
    MdnsTwice = 163 Error,
    MdnsNoNode = 164 Error,
    UnknownService = 165 Error,
    MdnsCrowded = 166 Error,
    MdnsNotServed = 167 Warning,
    MdnsNodeName = 183 Error,
    // Egress routers: where they run.
    RouterNodeTwice = 170 Error,
    RouterUnavailable = 171 Error,
    EgressIpUnavailable = 172 Warning,
    // Egress routers: proxies.
    BadHost = 173 Error,
    RouterModeKey = 174 Error,
    RouterRules = 175 Error,
    RouterRuleNode = 176 Error,
    RouterAnyLast = 177 Error,
    RouterRuleNeverMatches = 178 Warning,
    RouterRuleInsideCluster = 179 Warning,
    RouterHostName = 180 Error,
    RouterProtocol = 181 Error,
    RouterNameServer = 182 Error,
    // What nodes take from pods.
    NodeAccessVxlan = 190 Error,
    NodeAccessOpen = 191 Warning,
    RouterSegment = 196 Error,
    // Faults of ringfence.
    Internal = 199 Error,
    // A node.
    NotRoot = 200 Error,
    ToolMissing = 201 Error,
    NotOutputDirectory = 202 Error,
    Tampered = 203 Error,
    WrongNode = 204 Error,
    OvsNotRunning = 205 Error,
    NotOurs = 206 Error,
    Locked = 207 Error,
    CommandFailed = 208 Error,
    ReadBack = 209 Error,
    StateUnusable = 210 Error,
    NotConfirmed = 211 Error,
    HealthCheck = 212 Error,
    RolledBack = 213 Error,
    RollbackFailed = 214 Error,
    NoGeneration = 215 Error,
    NothingToConfirm = 216 Error,
    SymbolicLink = 217 Error,
    NotSigned = 218 Error,
    SignersUnusable = 219 Error,
    ForeignNetwork = 220 Error,
    AddressAnswers = 221 Error,
    DatapathUnusable = 222 Error,
    ForeignOnBridge = 223 Error,
    NotMovable = 227 Error,
    UplinkTaken = 228 Error,
    // The lab.
    LabSetup = 230 Error,
    LabDiffers = 231 Error,
    LabNotRunning = 232 Error,
    // Network policies.
    NetworkPolicyPeer = 260 Error,
    NetworkPolicyExcept = 261 Error,
    NetworkPolicyPort = 262 Error,
    BadPortName = 263 Error,
    BadSubdomain = 264 Error,
    MetadataName = 265 Error,
    NamedPortMissing = 266 Warning,
    PolicyTypeUnused = 267 Warning,
    IpBlockEmpty = 268 Warning,
    IpBlockNeverMatches = 269 Warning,
    PolicyServicePort = 270 Warning,
    NodePortSource = 271 Error,
    NetworkPolicyTooLarge = 272 Error,
    // The proof.
    NotUnderstood = 300 Error,
    Refuted = 301 Error,
    NoMeaning = 302 Error,
    // Questions, policy tests and differences.
    EndpointUnknown = 310 Error,
    EndpointAmbiguous = 311 Error,
    EndpointUnusable = 312 Error,
    TestNothing = 313 Error,
    TestTwice = 314 Error,
    TestVia = 315 Error,
    TestFailed = 316 Error,
    NoTests = 317 Error,
    FilesDiffer = 318 Error,
    BadRevision = 320 Error,
}

const EXPLANATIONS: &str = include_str!("codes.md");

impl Code {
    fn section(self) -> &'static str {
        let heading = format!("\n## {self} ");
        let Some(start) = EXPLANATIONS.find(&heading) else { return "" };
        let section = &EXPLANATIONS[start + heading.len()..];
        section.find("\n## ").map_or(section, |end| &section[..end])
    }

    /// What the code is about, in a few words.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.section().lines().next().unwrap_or_default()
    }

    /// What it means, why it exists, how to mend it: paragraphs of Markdown.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        self.section().split_once('\n').map_or("", |(_, text)| text).trim()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RF{:03}", *self as u16)
    }
}

impl FromStr for Code {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let upper = text.to_ascii_uppercase();
        Self::ALL.iter().copied().find(|code| code.to_string() == upper).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_three_parts_and_nothing_else_is() {
        for code in Code::ALL {
            assert!(!code.title().is_empty(), "{code} has no section in codes.md");
            for part in ["What it means.", "Why.", "How to mend it."] {
                assert!(code.explanation().contains(part), "{code} lacks `{part}`");
            }
        }
        assert_eq!(EXPLANATIONS.matches("\n## RF").count(), Code::ALL.len());
    }

    #[test]
    fn codes_parse_as_they_print() {
        for code in Code::ALL {
            assert_eq!(code.to_string().to_lowercase().parse(), Ok(*code));
        }
        assert_eq!("RF999".parse::<Code>(), Err(()));
    }
}
