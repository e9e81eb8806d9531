//! The binary as a process: a controller over real TLS, the operator's commands, exit codes, signals. Needs no privileges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn penstock(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    for name in ["SERVER", "CA", "CERT", "KEY", "CONTEXT"] {
        command.env_remove(format!("PENSTOCK_{name}"));
    }
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory with an authority and a controller's configuration.
struct Site {
    dir: PathBuf,
    port: u16,
}

impl Site {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pst-process-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&dir).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let site = Self { dir, port };
        assert!(site.pki(&["init"]).status.success());
        for (role, name, ip) in [("controller", "ctl", true), ("operator", "op", false), ("mux", "mux1", false)] {
            let mut args = vec!["issue", "--role", role, "--name", name];
            args.extend(ip.then_some(["--ip", "127.0.0.1"]).into_iter().flatten());
            let out = site.pki(&args);
            assert!(out.status.success(), "{}", text(&out.stderr));
        }
        site
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn pki(&self, args: &[&str]) -> Output {
        let mut all = vec!["pki"];
        all.extend(args);
        let dir = self.path("");
        all.extend(["--dir", &dir]);
        penstock(&all)
    }

    fn node(&self, name: &str) -> String {
        format!(
            "[node]\nname = \"{name}\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nstate_dir = \"{}\"\n",
            self.path("ca.pem"),
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
            self.path("state")
        )
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn controller(&self) -> Controller<'_> {
        // Southbound is UDP: its own port space.
        let table =
            format!("[controller]\nlisten = \"127.0.0.1:{0}\"\nsouthbound_listen = \"127.0.0.1:{0}\"\n", self.port);
        let config = self.file("controller.toml", &(self.node("ctl") + &table));
        let process = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["run", "--config", &config])
            .stderr(Stdio::from(std::fs::File::create(self.path("log")).unwrap()))
            .spawn()
            .unwrap();
        let controller = Controller { site: self, process };
        let start = Instant::now();
        while !controller.cli(&["status"]).status.success() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(start.elapsed() < SOON, "the controller does not answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        controller
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Controller<'a> {
    site: &'a Site,
    process: Child,
}

impl Controller<'_> {
    fn cli_as(&self, who: &str, args: &[&str]) -> Output {
        let (server, site) = (format!("https://127.0.0.1:{}", self.site.port), self.site);
        let (ca, cert, key) = (site.path("ca.pem"), site.path(&format!("{who}.pem")), site.path(&format!("{who}.key")));
        let mut all = vec!["--server", &server, "--ca", &ca, "--cert", &cert, "--key", &key];
        all.extend(args);
        penstock(&all)
    }

    fn cli(&self, args: &[&str]) -> Output {
        self.cli_as("op", args)
    }

    fn stop(self) -> Option<i32> {
        self.end_by("-TERM")
    }

    fn end_by(mut self, signal: &str) -> Option<i32> {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let start = Instant::now();
        while start.elapsed() < SOON {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the controller does not end after {signal}");
    }
}

impl Drop for Controller<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const NETWORKS: &str = r#"{"resources": [
    {"resourceRef": "/logicalNetworks/provider", "properties": {"networkVirtualizationEnabled": true}},
    {"resourceRef": "/virtualNetworks/blue", "properties": {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "logicalNetwork": {"resourceRef": "/logicalNetworks/provider"},
        "subnets": [{"resourceId": "web", "properties": {"addressPrefix": "10.0.0.0/24"}}]}}]}"#;

const MISTAKES: &str = r#"[
    {"resourceRef": "/virtualNetworks/red", "properties": {
        "addressSpace": {"addressPrefixes": ["10.9.0.0/33"]},
        "logicalNetwork": {"resourceRef": "/logicalNetworks/missing"}}},
    {"resourceRef": "/publicIPAddresses/vip", "properties": {"ipAddress": "nowhere"}}]"#;

#[test]
fn an_operators_day_from_apply_to_sigterm() {
    let site = Site::new();
    let controller = site.controller();

    let file = site.file("networks.json", NETWORKS);
    let out = controller.cli(&["apply", "-f", &file]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("created /virtualNetworks/blue"), "{}", text(&out.stdout));
    let again = controller.cli(&["apply", "-f", &file]);
    assert_eq!(text(&again.stdout).trim(), "2 were so already");

    let list = text(&controller.cli(&["get", "virtualnetworks"]).stdout);
    assert!(list.lines().any(|l| l.starts_with("blue") && l.contains("10.0.0.0/24")), "{list}");
    let one: serde_json::Value =
        serde_json::from_slice(&controller.cli(&["get", "virtualNetworks/blue/subnets", "web", "--json"]).stdout)
            .unwrap();
    assert_eq!(one["properties"]["addressPrefix"], "10.0.0.0/24");
    assert!(!list.contains('\x1b'), "colours without a terminal");

    // All that is wrong, with places in the file, and nothing done.
    let mistakes = site.file("mistakes.json", MISTAKES);
    let out = controller.cli(&["apply", "-f", &mistakes]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    for place in ["/0/properties/addressSpace/addressPrefixes/0", "/1/properties/ipAddress"] {
        assert!(said.contains(place), "no {place} in {said}");
    }
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(controller.cli(&["get", "virtualNetworks", "red"]).status.code(), Some(4));

    let in_use = controller.cli(&["delete", "logicalNetworks", "provider"]);
    assert_eq!(in_use.status.code(), Some(5));
    assert!(text(&in_use.stderr).contains("/virtualNetworks/blue"), "{}", text(&in_use.stderr));
    assert!(controller.cli(&["delete", "virtualNetworks", "blue"]).status.success());
    assert!(controller.cli(&["delete", "logicalNetworks", "provider"]).status.success());

    let top: serde_json::Value = serde_json::from_slice(&controller.cli(&["top", "--once", "--json"]).stdout).unwrap();
    assert!(top["services"].is_array());
    let other = controller.cli_as("mux1", &["get", "servers"]);
    assert_eq!(other.status.code(), Some(6));
    assert!(text(&other.stderr).contains("--role operator"), "{}", text(&other.stderr));

    assert_eq!(controller.end_by("-USR1"), Some(0), "a restart is a good end, too");
}

const YAML: &str = "
resourceRef: /virtualNetworks/blue
properties:
  addressSpace:
    addressPrefixes: [10.0.0.0/16]
  subnets:
  - resourceId: web
    properties: {addressPrefix: 10.0.0.0/24}
---
resourceRef: /securityTags/dev
properties: {type: Environment}
";

#[test]
fn changes_are_planned_watched_edited_recorded_confirmed_and_undone() {
    let site = Site::new();
    let controller = site.controller();
    let good = |args: &[&str]| {
        let out = controller.cli(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    let file = site.file("site.yaml", YAML);
    let diff = controller.cli(&["diff", "-f", &file]);
    assert_eq!(diff.status.code(), Some(8), "{}", text(&diff.stderr));
    assert!(text(&diff.stdout).contains("+ /virtualNetworks/blue/subnets/web"), "{}", text(&diff.stdout));
    assert_eq!(good(&["get", "securityTags", "-o", "name"]).trim(), "");
    good(&["apply", "-f", &file, "--comment", "the beginning"]);
    assert_eq!(controller.cli(&["diff", "-f", &file]).status.code(), Some(0));
    assert_eq!(good(&["get", "virtualNetworks", "-o", "name"]).trim(), "/virtualNetworks/blue");
    let yaml = good(&["get", "virtualNetworks", "blue", "-o", "yaml"]);
    assert!(yaml.lines().any(|l| l == "resourceRef: /virtualNetworks/blue"), "{yaml}");
    good(&["wait", "virtualNetworks", "blue", "--timeout", "5"]);
    let late = controller.cli(&["wait", "securityTags", "dev", "--for", "deleted", "--timeout", "1"]);
    assert_eq!(late.status.code(), Some(7), "{}", text(&late.stderr));
    assert!(good(&["describe", "virtualNetworks", "blue"]).contains("by op the beginning"));

    // What the files do not hold goes, of their kinds alone.
    let network = "{\"properties\": {\"addressSpace\": {\"addressPrefixes\": [\"10.8.0.0/16\"]}}, \"resourceRef\": \"/virtualNetworks/old\"}";
    good(&["apply", "-f", &site.file("old.json", network)]);
    let pruned = good(&["apply", "-f", &file, "--prune"]);
    assert!(pruned.contains("deleted /virtualNetworks/old"), "{pruned}");

    // The editor is a program like any other.
    let script = site.file("editor.sh", "#!/bin/sh\nsed -i s/Environment/Tier/ \"$1\"\n");
    let server = format!("https://127.0.0.1:{}", site.port);
    let (ca, cert, key) = (site.path("ca.pem"), site.path("op.pem"), site.path("op.key"));
    let mut edit = Command::new(env!("CARGO_BIN_EXE_penstock"));
    edit.args(["--server", &server, "--ca", &ca, "--cert", &cert, "--key", &key, "edit", "securityTags", "dev"]);
    let edited = edit.env("VISUAL", format!("sh {script}")).output().unwrap();
    assert!(edited.status.success(), "{}", text(&edited.stderr));
    assert!(good(&["get", "securityTags", "dev"]).contains("Tier"));

    let history = good(&["history"]);
    assert!(history.lines().nth(1).unwrap().contains("modified /securityTags/dev"), "{history}");
    assert!(good(&["history", "4"]).contains("- type: \"Environment\""));
    good(&["rollback", "3", "--confirm-within", "60"]);
    let refused = controller.cli(&["delete", "securityTags", "dev"]);
    assert_eq!(refused.status.code(), Some(5), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("waits to be confirmed"), "{}", text(&refused.stderr));
    good(&["confirm"]);
    assert!(good(&["get", "securityTags", "dev"]).contains("Environment"));
    good(&["delete", "-f", &file]);
    let export = site.file("export.json", &good(&["export"]));
    assert_eq!(good(&["apply", "-f", &export]).trim(), "");

    let bundle = site.path("bundle.json");
    good(&["support-bundle", "-f", &bundle]);
    let bundle: serde_json::Value = serde_json::from_slice(&std::fs::read(bundle).unwrap()).unwrap();
    assert!(bundle["controller"]["history"]["value"].is_array(), "{bundle:#}");
    let api: serde_json::Value = serde_json::from_str(&good(&["openapi"])).unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    let man = site.path("man");
    good(&["man", "--dir", &man]);
    assert!(std::fs::read_to_string(format!("{man}/penstock-apply.1")).unwrap().contains("prune"));
    assert_eq!(controller.stop(), Some(0));
}

#[test]
fn a_controller_that_is_not_there_is_an_error_that_says_what_to_check() {
    let site = Site::new();
    let gone = penstock(&[
        "get",
        "servers",
        "--server",
        "https://127.0.0.1:1",
        "--ca",
        &site.path("ca.pem"),
        "--cert",
        &site.path("op.pem"),
        "--key",
        &site.path("op.key"),
    ]);
    assert_eq!(gone.status.code(), Some(7));
    assert!(text(&gone.stderr).contains("is the controller running"), "{}", text(&gone.stderr));
}

#[test]
fn a_configuration_that_cannot_be_is_refused_with_the_field() {
    let site = Site::new();
    let refused = |name: &str, content: String| {
        let out = penstock(&["run", "--config", &site.file(name, &content)]);
        assert_eq!(out.status.code(), Some(1));
        text(&out.stderr)
    };
    let said = refused("field.toml", site.node("mux1") + "[mux]\ninterface = 5\n");
    assert!(said.contains("mux"), "{said}");
    let said = refused(
        "role.toml",
        site.node("mux1")
            + "controller = \"127.0.0.1:1\"\n[host]\nunderlay_interface = \"lo\"\nunderlay_address = \"127.0.0.1\"\n",
    );
    assert!(said.contains("[host]") && said.contains("--role host"), "{said}");
    let key = site.path("mux1.key");
    std::fs::remove_file(&key).unwrap();
    let said = refused(
        "key.toml",
        site.node("mux1")
            + "controller = \"127.0.0.1:1\"\n[mux]\ninterface = \"lo\"\nunderlay_address = \"127.0.0.1\"\n",
    );
    assert!(said.contains(&key), "{said}");
}

#[test]
fn an_address_that_is_taken_ends_the_process_with_a_reason() {
    let site = Site::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).unwrap();
    let table =
        format!("[controller]\nlisten = \"{}\"\nsouthbound_listen = \"127.0.0.1:0\"\n", taken.local_addr().unwrap());
    let config = site.file("taken.toml", &(site.node("ctl") + &table));
    let out = penstock(&["run", "--config", &config]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains(&taken.local_addr().unwrap().to_string()), "{}", text(&out.stderr));
}

#[test]
fn completions_and_help_know_every_command() {
    let script = text(&penstock(&["completions", "bash"]).stdout);
    let help = text(&penstock(&["--help"]).stdout);
    for command in ["run", "get", "apply", "delete", "status", "trace", "top", "pki", "doctor"] {
        assert!(script.contains(command) && help.contains(command), "{command}");
    }
    assert!(help.contains("Exit codes"));
}
