//! Open vSwitch with its userspace datapath: a peer for GRE that needs nothing of the kernel but a TAP.
use super::{CONTAINERS, GATEWAY, Lab, OVS, SITE, eventually, ip};
use penstock_gateway_proto::ROUTER_MAC;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

impl Lab {
    /// A switch in namespace `o` that takes over its interface; the sites `b1` and `b2` are the ends of its GRE ports.
    pub(super) fn open_vswitch(&mut self) {
        let ns = self.ns("o");
        let dir = std::env::temp_dir().join(&ns);
        // A run that was killed may have left one: its sockets would be taken for this run's.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        self.directories.push(dir.clone());
        let switch = Switch { ns, dir };
        let database = switch.file("conf.db");
        run("ovsdb-tool", &["create", &database, "/usr/share/openvswitch/vswitch.ovsschema"]);
        let socket = switch.file("db.sock");
        let remote = format!("--remote=punix:{socket}");
        self.children.push(switch.spawn("ovsdb-server", &[&database, &remote, "--unixctl", &switch.file("db.ctl")]));
        eventually("the database answers", || Path::new(&socket).exists());
        let database = format!("unix:{socket}");
        let control = switch.file("vs.ctl");
        self.children.push(switch.spawn("ovs-vswitchd", &[&database, "--disable-system", "--unixctl", &control]));
        eventually("the switch answers", || Path::new(&control).exists());
        switch.set("add-br br-phy -- set bridge br-phy datapath_type=netdev fail-mode=standalone");
        switch.set("add-port br-phy eth0");
        ip(&format!("-n {} addr flush dev eth0", switch.ns));
        ip(&format!("-n {} addr add {OVS}/24 dev br-phy", switch.ns));
        ip(&format!("-n {} link set br-phy up", switch.ns));
        self.site(&switch, "b1", "key=7");
        self.site(&switch, "b2", "key=8 options:csum=true");
    }

    /// One GRE port that carries IP and no Ethernet, and the site behind it.
    fn site(&self, switch: &Switch, role: &str, options: &str) {
        let ns = self.ns(role);
        ip(&format!("netns add {ns}"));
        switch.set(&format!("add-br {role} -- set bridge {role} datapath_type=netdev fail-mode=secure"));
        switch.set(&format!(
            "add-port {role} gre-{role} -- set interface gre-{role} type=gre ofport_request=9 options:packet_type=legacy_l3 options:remote_ip={GATEWAY} options:{options}"
        ));
        // `ip netns exec` mounts the namespace's own /sys.
        let mac = switch.output(&["cat", &format!("/sys/class/net/{role}/address")]);
        let flows =
            [format!("in_port=9,actions=mod_dl_dst:{},LOCAL", mac.trim()), "in_port=LOCAL,actions=9".to_owned()];
        for flow in flows {
            run("ovs-ofctl", &["add-flow", &switch.file(&format!("{role}.mgmt")), &flow]);
        }
        ip(&format!("-n {} link set {role} netns {ns}", switch.ns));
        ip(&format!("-n {ns} link set lo up"));
        ip(&format!("-n {ns} addr add {SITE}/24 dev {role}"));
        ip(&format!("-n {ns} link set {role} mtu 1460 up"));
        ip(&format!("-n {ns} neigh add 10.200.0.1 lladdr {ROUTER_MAC} dev {role} nud permanent"));
        ip(&format!("-n {ns} route add {CONTAINERS} via 10.200.0.1"));
    }
}

struct Switch {
    ns: String,
    dir: PathBuf,
}

impl Switch {
    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    fn spawn(&self, program: &str, args: &[&str]) -> std::process::Child {
        let log = std::fs::File::create(self.file(&format!("{program}.log"))).unwrap();
        Command::new("ip")
            .args(["netns", "exec", &self.ns, program])
            .args(args)
            .env("OVS_RUNDIR", &self.dir)
            .env("OVS_LOGDIR", &self.dir)
            .env("OVS_DBDIR", &self.dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn output(&self, command: &[&str]) -> String {
        let out = Command::new("ip").args(["netns", "exec", &self.ns]).args(command).output().unwrap();
        assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn set(&self, what: &str) {
        let database = format!("--db=unix:{}", self.file("db.sock"));
        let mut args = vec!["--timeout=10", database.as_str()];
        args.extend(what.split_whitespace());
        run("ovs-vsctl", &args);
    }
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}
