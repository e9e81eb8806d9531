use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use penstock_admin_client::Manner;
use std::net::IpAddr;
use std::path::PathBuf;

pub const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by validation (nothing was changed), 4 not found, 5 in use or changed
meanwhile, 6 denied, 7 not reached or not in time, 8 there are differences (diff).
Connection: options, else PENSTOCK_SERVER, PENSTOCK_CA, PENSTOCK_CERT, PENSTOCK_KEY, else the file that PENSTOCK_CONTEXT
names (~/.config/penstock/context.toml: server, ca, cert, key).";

/// How to reach the controller, and how to show what comes of it.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The controller, https://host[:port]
    #[arg(long, global = true, env = "PENSTOCK_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Certificate of the authority that the controller's certificate is from
    #[arg(long, global = true, env = "PENSTOCK_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Own certificate, of the role operator
    #[arg(long, global = true, env = "PENSTOCK_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key to it
    #[arg(long, global = true, env = "PENSTOCK_KEY", value_name = "FILE", hide_env_values = true)]
    pub key: Option<PathBuf>,
    /// A file with server, ca, cert and key, where the options and the environment say nothing
    #[arg(long, global = true, env = "PENSTOCK_CONTEXT", value_name = "FILE")]
    pub context: Option<PathBuf>,
    /// JSON instead of text: -o json
    #[arg(long, global = true)]
    pub json: bool,
    /// How to show what comes of it
    #[arg(short, long = "output", global = true, value_enum, value_name = "FORMAT", conflicts_with = "json")]
    pub output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    /// Tables with more columns
    Wide,
    Json,
    Yaml,
    /// Paths of resources, one a line
    Name,
}

/// How a change is made.
#[derive(Debug, Default, Args)]
pub struct Changing {
    /// Say what it would do, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Undo it unless `penstock confirm` is given in so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub confirm_within: Option<u64>,
    /// Kept in the history
    #[arg(long, value_name = "TEXT")]
    pub comment: Option<String>,
}

impl Changing {
    pub(crate) fn manner(&self) -> Manner {
        Manner { what_if: self.dry_run, confirm_within: self.confirm_within, comment: self.comment.clone() }
    }
}

/// JSON or YAML: a resource, an array, or {"resources": [...]}; a directory of such files; - for standard input
#[derive(Debug, Args)]
pub struct Files {
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the resources of a kind, or one of them
    Get(Get),
    /// Show one resource for people: its state, its parts, its last changes
    Describe(One),
    /// Create or replace resources: all that the files hold, or none
    Apply(Apply),
    /// Show what apply would change, and what that would do to traffic
    Diff {
        #[command(flatten)]
        files: Files,
        /// As apply would with it
        #[arg(long)]
        prune: bool,
    },
    /// Change a resource in $VISUAL or $EDITOR
    Edit {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        changing: Changing,
    },
    /// Take a backend (networkInterfaces) or a mux (loadBalancerMuxes) out of service without breaking what it has
    Drain(Drain),
    /// Wait until a resource is as it should be
    Wait(Wait),
    /// Show changes of a kind, or of one resource, as they happen
    Watch(Watch),
    /// Explain a kind or a member: loadBalancers.probes.port
    Explain { name: String },
    /// Show who changed what, or one change with its difference
    History {
        revision: Option<u64>,
        /// Changes to show
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// Make everything as it was after a change
    Rollback {
        revision: u64,
        #[command(flatten)]
        changing: Changing,
    },
    /// Keep the change that would be undone otherwise
    Confirm,
    /// Tokens of programs that have no certificate
    Token {
        #[command(subcommand)]
        command: Token,
    },
    /// What tenants have and may have
    Quota {
        #[command(subcommand)]
        command: Quota,
    },
    /// Show who asked for changes, and what was denied
    Audit {
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// Print all resources, as apply takes them
    Export,
    /// Print the API's description: OpenAPI 3.1
    Openapi,
    /// Delete resources
    Delete(Delete),
    /// Show nodes, what they have applied, and the health of backends
    Status,
    /// Explain what each node decides for a packet
    Trace(Question),
    /// Show traffic of virtual IPs, backends and tunnels, with rates
    Top(Top),
    /// Show BGP neighbors and routes of the nodes
    Bgp {
        #[command(subcommand)]
        command: Bgp,
    },
    /// Show how BFD watches the nodes' neighbors
    Bfd,
    /// Make certificates
    Pki {
        #[command(subcommand)]
        command: Pki,
    },
    /// Check what this machine offers to a node
    Doctor,
    /// Write what helps to find a fault into one file; no secrets
    SupportBundle {
        #[arg(short, long = "file", value_name = "FILE", default_value = "penstock-support.json")]
        file: PathBuf,
    },
    /// Print a completion script: source <(penstock completion bash)
    #[command(alias = "completions")]
    Completion { shell: Shell },
    /// Print the manual page, or write one for each command into a directory
    Man {
        #[arg(long, value_name = "DIRECTORY")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Get {
    /// loadBalancers, virtualNetworks/blue/subnets, ... in any letter case
    pub kind: String,
    /// resourceId
    pub id: Option<String>,
}

#[derive(Debug, Args)]
pub struct One {
    /// loadBalancers, virtualNetworks/blue/subnets, ... in any letter case
    pub kind: String,
    /// resourceId; singletons need none
    pub id: Option<String>,
}

#[derive(Debug, Args)]
pub struct Drain {
    #[command(flatten)]
    pub one: One,
    /// Until the end of them a backend keeps its connections
    #[arg(long = "for", value_name = "MINUTES", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    pub minutes: u64,
    /// Back into service
    #[arg(long, conflicts_with = "wait")]
    pub cancel: bool,
    /// Show how far it is until it is done
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub changing: Changing,
}

#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Delete the resources that the files do not hold, of the kinds that they hold
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub changing: Changing,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[arg(required_unless_present = "files", conflicts_with = "files")]
    pub kind: Option<String>,
    /// resourceIds: all of them, or none
    #[arg(required_unless_present = "files", conflicts_with = "files")]
    pub ids: Vec<String>,
    /// What the files hold
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub changing: Changing,
}

#[derive(Debug, Args)]
pub struct Wait {
    #[command(flatten)]
    pub one: One,
    #[arg(long = "for", value_enum, default_value_t = Goal::Success)]
    pub goal: Goal,
    /// Seconds
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// configurationState is Success: what it says has happened
    Success,
    Exists,
    Deleted,
}

#[derive(Debug, Args)]
pub struct Watch {
    #[command(flatten)]
    pub one: One,
    /// Go on after this revision instead of beginning with what is there
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,
}

/// The packet to explain.
#[derive(Debug, Args)]
pub struct Question {
    #[arg(long, value_name = "ADDRESS")]
    pub src: IpAddr,
    #[arg(long, value_name = "ADDRESS")]
    pub dst: IpAddr,
    #[arg(long, value_enum, default_value_t = Proto::Tcp)]
    pub proto: Proto,
    /// Destination port; tcp and udp need it
    #[arg(long, value_name = "PORT", required_if_eq_any([("proto", "tcp"), ("proto", "udp")]))]
    pub dport: Option<u16>,
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    pub sport: u16,
    /// The network interface that sends the packet, for overlay addresses
    #[arg(long, value_name = "ID", conflicts_with = "from_tunnel")]
    pub from: Option<String>,
    /// The network connection that the packet comes in by: <gateway>/<connection>
    #[arg(long, value_name = "ID")]
    pub from_tunnel: Option<String>,
    /// Not the first packet of its connection
    #[arg(long)]
    pub established: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proto {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Show once and stop
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("from 0.1 to 3600".to_owned()) }
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make one; it is shown once
    Create {
        #[arg(long)]
        name: String,
        #[arg(long, value_enum)]
        role: TokenRole,
        /// resourceMetadata.tenantId of what the tenant's roles see
        #[arg(long)]
        tenant: Option<String>,
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=366))]
        days: u64,
    },
    List,
    Delete {
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Quota {
    /// What each tenant has, and its limits
    List,
    /// Set a tenant's limits, instead of those before
    Set {
        /// resourceMetadata.tenantId of its resources; '*': every tenant without limits of its own
        tenant: String,
        /// virtualNetworks=5, virtualNetworks/subnets=20, '*=100' for all together (children counted)
        #[arg(required = true, value_parser = limit)]
        limits: Vec<(String, u64)>,
    },
    /// End a tenant's limits
    Delete { tenant: String },
}

fn limit(text: &str) -> Result<(String, u64), String> {
    let (kind, number) = text.split_once('=').ok_or("KIND=NUMBER")?;
    Ok((kind.to_owned(), number.parse().map_err(|_| format!("'{number}' is no number"))?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    Operator,
    Auditor,
    TenantAdmin,
    TenantViewer,
}

#[derive(Debug, Subcommand)]
pub enum Bgp {
    /// Nodes, neighbors, and virtual IPs that are not announced
    Summary,
    /// Everything about each neighbor
    Neighbors,
    /// Routes, and whom they are advertised to
    Rib,
    /// Why a prefix is announced or not, and which path is used
    Explain {
        /// 203.0.113.10 or 203.0.113.10/32
        prefix: String,
    },
    /// The whole table of a router of this machine, as an MRT file (RFC 6396)
    Dump {
        /// `dump_socket` in [mux.bgp], or of a router in `dump_directory` of [gateway.bgp]
        #[arg(long, value_name = "SOCKET")]
        socket: PathBuf,
        /// Where to write it, for bgpdump and others to read
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Make an authority in a directory: ca.pem, ca.key
    Init {
        #[arg(long, value_name = "DIRECTORY")]
        dir: PathBuf,
    },
    /// Make a certificate: <name>.pem, <name>.key
    Issue {
        #[arg(long, value_name = "DIRECTORY")]
        dir: PathBuf,
        /// controller, operator, mux, host, gateway; several with commas between, for a process with several roles
        #[arg(long)]
        role: String,
        #[arg(long)]
        name: String,
        /// An address that clients use; a controller needs one or a --dns
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
        /// A name that clients use
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("penstock").chain(line.split(' ')))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn connection_options_stand_before_or_after_the_command() {
        for line in ["--server https://c --json get servers", "get servers --json --server https://c"] {
            let line = parse(line).unwrap();
            assert_eq!(line.global.server.as_deref(), Some("https://c"));
            assert!(line.global.json);
        }
    }

    #[test]
    fn a_format_is_given_in_one_way() {
        assert_eq!(parse("get servers -o wide").unwrap().global.output, Some(Format::Wide));
        assert!(parse("get servers -o wide --json").is_err());
        assert!(parse("get servers -o xml").is_err());
    }

    #[test]
    fn what_is_deleted_is_named_or_in_files() {
        assert!(parse("delete -f a.json").is_ok());
        assert!(parse("delete servers a b").is_ok());
        assert!(parse("delete servers a -f a.json").is_err());
    }

    #[test]
    fn a_trace_needs_addresses_of_the_right_form_and_a_port() {
        let good = parse("trace --src 198.51.100.2 --dst 2001:db8::1 --proto udp --dport 53").unwrap();
        let Command::Trace(q) = good.command else { panic!("{good:?}") };
        assert_eq!((q.proto, q.dport, q.sport), (Proto::Udp, Some(53), 40_000));
        assert!(parse("trace --src 198.51.100.2 --dst nowhere --dport 80").is_err());
        assert!(parse("trace --src 198.51.100.2 --dst 203.0.113.10 --proto tcp").is_err());
        assert!(parse("trace --src 198.51.100.2 --dst 203.0.113.10 --proto icmp").is_ok());
        assert!(parse("trace --src 1.1.1.1 --dst 2.2.2.2 --dport 80 --from a --from-tunnel b").is_err());
    }

    #[test]
    fn wrong_usage_has_exit_code_2() {
        for line in [
            "",
            "frobnicate",
            "apply",
            "delete servers",
            "apply -f x --confirm-within 0",
            "wait servers a --for ever",
            "top --interval 0",
            "pki issue --dir d --role mux",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
