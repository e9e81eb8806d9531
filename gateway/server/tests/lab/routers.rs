//! Routers at the sites that others wrote, as Debian has them: FRR and BIRD.
use super::{Lab, eventually};
use std::path::PathBuf;
use std::process::{Command, Stdio};

impl Lab {
    fn router_directory(&mut self, role: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("{}-{role}", self.name));
        std::fs::create_dir_all(&directory).unwrap();
        self.directories.push(directory.clone());
        directory
    }

    fn spawn_in(&mut self, role: &str, program: &str, args: &[String]) {
        let ns = self.ns(role);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &ns, program]).args(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        self.children.push(child);
    }

    /// FRR's zebra and bgpd.
    pub fn frr(&mut self, role: &str, bgp: &str) {
        let directory = self.router_directory(role);
        let d = directory.to_str().unwrap().to_owned();
        for (daemon, configuration) in [("zebra", ""), ("bgpd", bgp)] {
            std::fs::write(directory.join(format!("{daemon}.conf")), configuration).unwrap();
        }
        assert!(Command::new("chown").args(["-R", "frr:frr", &d]).status().unwrap().success());
        for daemon in ["zebra", "bgpd"] {
            let args = format!(
                "-u frr -g frr -z {d}/zserv -i {d}/{daemon}.pid --vty_socket {d} -f {d}/{daemon}.conf -P 0 --log file:{d}/{daemon}.log"
            );
            let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
            self.spawn_in(role, &format!("/usr/lib/frr/{daemon}"), &args);
            let socket = directory.join(format!("{daemon}.vty"));
            eventually(&format!("{daemon} runs"), || socket.exists());
        }
    }

    pub fn vtysh(&self, role: &str, line: &str) -> String {
        let directory = std::env::temp_dir().join(format!("{}-{role}", self.name));
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.ns(role),
            "vtysh",
            "--vty_socket",
            directory.to_str().unwrap(),
            "-c",
            line,
        ]);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    pub fn kill_bgpd(&self, role: &str) {
        let pid = std::env::temp_dir().join(format!("{}-{role}/bgpd.pid", self.name));
        let pid = std::fs::read_to_string(pid).unwrap();
        assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
    }

    pub fn bird(&mut self, role: &str, configuration: &str) {
        let directory = self.router_directory(role);
        let (conf, socket) = (directory.join("bird.conf"), directory.join("bird.ctl"));
        std::fs::write(&conf, configuration).unwrap();
        let args = ["-f", "-c", conf.to_str().unwrap(), "-s", socket.to_str().unwrap()].map(str::to_owned);
        self.spawn_in(role, "/usr/sbin/bird", &args);
        eventually("bird runs", || self.birdc(role, "show status").contains("Daemon is up"));
    }

    pub fn birdc(&self, role: &str, line: &str) -> String {
        let socket = std::env::temp_dir().join(format!("{}-{role}/bird.ctl", self.name));
        let mut command = Command::new("/usr/sbin/birdc");
        command.args(["-s", socket.to_str().unwrap()]).args(line.split(' '));
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }
}
