//! A client's connection through a VIP to a container, and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_lab::{Lab, text, tshark};
use std::collections::BTreeMap;
use std::time::Duration;

const BLUE: [&str; 3] = ["blue-1", "blue-2", "blue-3"];

macro_rules! lab {
    () => {
        match Lab::shared() {
            Some(lab) => lab,
            None => return,
        }
    };
}

/// Who answered, by count: each line of `output` is `<container> <client address>`.
fn tally(output: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in output.lines() {
        *counts.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn a_thousand_connections_spread_evenly_over_the_containers() {
    let lab = lab!();
    let output = lab
        .out("client", "curl -s --parallel --parallel-max 30 -H 'Connection: close' 'http://203.0.113.10/?[1-1000]'");
    let counts = tally(&output);
    assert_eq!(counts.values().sum::<u32>(), 1000, "{counts:?}");
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), BLUE);
    // Binomial with p = 1/3: five standard deviations are 75.
    assert!(counts.values().all(|n| (n.abs_diff(333)) < 76), "{counts:?}");
}

#[test]
fn ipv6_and_udp_are_balanced_too() {
    let lab = lab!();
    let v6 = lab.out("client", r"curl -s -H 'Connection: close' 'http://\[2001:db8:f::10\]/?[1-30]'");
    let counts = tally(&v6);
    assert_eq!(counts.values().sum::<u32>(), 30, "{v6}");
    assert!(counts.len() == 3 && counts.keys().all(|k| k.starts_with("blue-")), "{counts:?}");
    for vip in ["203.0.113.10", "2001:db8:f::10"] {
        let echo = format!(
            "for i in $(seq 20); do timeout 3 bash -c 'exec 3<>/dev/udp/{vip}/7; echo hello >&3; head -n 1 <&3'; done"
        );
        let echoed = lab.out("client", &echo);
        assert_eq!(echoed.lines().filter(|l| l.ends_with(" hello")).count(), 20, "{echoed}");
        assert!(tally(&echoed).len() > 1, "{echoed}");
    }
}

#[test]
fn the_container_sees_the_clients_own_address() {
    let lab = lab!();
    assert!(lab.out("client", "curl -s http://203.0.113.10/").ends_with(" 198.51.100.2"));
    assert!(lab.out("client", "curl -gs 'http://[2001:db8:f::10]/'").ends_with(" 2001:db8:c::2"));
}

#[test]
fn the_way_back_does_not_touch_the_mux_and_the_way_in_is_vxlan_of_the_right_tenant() {
    let lab = lab!();
    let load = || {
        for vip in ["203.0.113.10", "203.0.113.20"] {
            lab.out("client", &format!("curl -s -H 'Connection: close' 'http://{vip}/?[1-40]'"));
        }
    };
    let host = lab.state().join("host1.pcap");
    let mut mux2 = None;
    let mux1 = lab.capture("mux1", "tcp port 80 or udp port 4789", || {
        mux2 = Some(lab.capture("mux2", "tcp port 80 or udp port 4789", || {
            lab.capture("host1", "tcp port 80 or udp port 4789", load);
        }));
    });
    let (mut entered, mut ports) = (0, std::collections::BTreeSet::new());
    let vnis = [vni(lab, "blue"), vni(lab, "green")];
    for capture in [mux1, mux2.unwrap()] {
        assert_eq!(tshark(&capture, "!vxlan && tcp.srcport == 80", &["ip.src"]).len(), 0, "a reply passed a mux");
        entered += tshark(&capture, "!vxlan && tcp.dstport == 80", &["ip.src"]).len();
        for row in tshark(&capture, "vxlan", &["vxlan.vni", "udp.srcport", "ip.dst", "tcp.dstport"]) {
            let vip = row[2].split(',').nth(1).unwrap();
            let expected = if vip == "203.0.113.10" { &vnis[0] } else { &vnis[1] };
            assert_eq!(&row[0], expected, "{row:?}");
            ports.insert(row[1].clone());
        }
        assert_eq!(tshark(&capture, "_ws.malformed", &["frame.number"]).len(), 0);
    }
    assert!(entered > 80 * 4, "only {entered} packets came in by the muxes");
    assert!(ports.len() > 40, "outer source ports do not vary: {ports:?}");
    let replies = tshark(&host, "!vxlan && tcp.srcport == 80 && ip.src == 203.0.113.0/24", &["ip.dst"]);
    assert!(replies.len() > 40 && replies.iter().all(|r| r[0] == "198.51.100.2"), "{replies:?}");
}

/// The VXLAN network id of a virtual network, as the API shows it.
fn vni(lab: &Lab, network: &str) -> String {
    let shown = lab.cli_json(&["get", "virtualNetworks", network]);
    let id = &shown["properties"]["subnets"][0]["properties"]["VirtualSubnetId"];
    id.as_u64().map(|n| n.to_string()).or_else(|| id.as_str().map(str::to_owned)).unwrap_or_else(|| panic!("{shown}"))
}

#[test]
fn tenants_with_equal_addresses_never_meet() {
    let lab = lab!();
    let green = lab.out("client", "curl -s -H 'Connection: close' 'http://203.0.113.20/?[1-60]'");
    assert!(tally(&green).keys().all(|k| k.starts_with("green-")), "{green}");
    for (from, tenant) in [("blue-1", "blue"), ("blue-3", "blue"), ("green-1", "green"), ("green-3", "green")] {
        for n in 1..=3 {
            let answer = lab.out(from, &format!("curl -s -m 3 http://10.0.0.1{n}:8080/"));
            assert!(answer.starts_with(&format!("{tenant}-{n} 10.0.0.1")), "{from} asked 10.0.0.1{n}: {answer}");
            let answer = lab.out(from, &format!("curl -gs -m 3 'http://[fd10::1{n}]:8080/'"));
            assert!(answer.starts_with(&format!("{tenant}-{n} fd10::1")), "{from} asked fd10::1{n}: {answer}");
        }
    }
}

#[test]
fn a_gibibyte_arrives_intact_with_default_offloads() {
    let lab = lab!();
    let expected = std::fs::read_to_string("/var/tmp/penstock-lab/big.sha256").unwrap();
    let expected = expected.split(' ').next().unwrap();
    let got = lab.out("client", "set -o pipefail; curl -sf http://203.0.113.10/big | sha256sum");
    assert_eq!(got.split(' ').next(), Some(expected));
    for direction in ["", "-R"] {
        let report = lab.out("client", &format!("iperf3 -J -t 3 {direction} -c 203.0.113.10"));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let mbit = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e6;
        println!("iperf3 {direction}: {mbit:.0} Mbit/s");
        assert!(mbit > 20.0, "iperf3 {direction}: {mbit} Mbit/s");
    }
    let bad = lab.out("client", "nstat -asz TcpInCsumErrors | awk '/TcpInCsumErrors/ {print $2}'");
    assert_eq!(bad, "0", "checksum errors at the client");
}

#[test]
fn a_dead_container_leaves_within_its_probe_time_and_comes_back() {
    let lab = lab!();
    let steady = lab.start(
        "client",
        "for i in 1 2 3 4 5 6; do curl -s -o /dev/null -D - -r 0-1999999 http://203.0.113.10/slow & done; wait",
    );
    std::thread::sleep(Duration::from_millis(500));
    let answers = || {
        tally(&lab.out(
            "client",
            "curl -s -m 1 --parallel --parallel-max 20 -H 'Connection: close' 'http://203.0.113.10/?[1-60]' || true",
        ))
    };
    lab.script(&["container-stop", "blue-2"]);
    // Interval 1 s, 2 failures: at most 3 s until the second failure is certain, and a second to publish.
    lab.wait_until(Duration::from_secs(5), "blue-2 leaves", || {
        let seen = answers();
        seen.values().sum::<u32>() == 60 && !seen.contains_key("blue-2")
    });
    let out = steady.wait_with_output().unwrap();
    let headers = String::from_utf8_lossy(&out.stdout).into_owned();
    let others = headers.matches("X-Container: blue-1").count() + headers.matches("X-Container: blue-3").count();
    assert!(others > 0, "no steady transfer was on another container: {headers}");
    lab.script(&["container-start", "blue-2"]);
    lab.wait_until(Duration::from_secs(5), "blue-2 comes back", || answers().contains_key("blue-2"));
}

#[test]
fn established_transfers_to_others_survive_a_dead_container() {
    let lab = lab!();
    // Each transfer writes who served it and curl's exit code.
    let line = "for i in $(seq 30); do curl -s -m 15 -o /dev/null -r 0-1199999 \
                -w '%{exitcode} %header{x-container}\\n' http://203.0.113.10/slow & done; wait";
    let transfers = lab.start("client", line);
    std::thread::sleep(Duration::from_millis(800));
    lab.script(&["container-stop", "blue-2"]);
    let out = transfers.wait_with_output().unwrap();
    lab.script(&["container-start", "blue-2"]);
    let output = String::from_utf8_lossy(&out.stdout).into_owned();
    let served_by_others: Vec<_> = output.lines().filter(|l| l.contains("blue-1") || l.contains("blue-3")).collect();
    assert!(served_by_others.len() >= 10, "{output}");
    assert!(served_by_others.iter().all(|l| l.starts_with("0 ")), "{output}");
    lab.wait_until(Duration::from_secs(5), "blue-2 comes back", || {
        lab.ok("client", "curl -s -m 1 -H 'Connection: close' 'http://203.0.113.10/?[1-60]' | grep -q blue-2")
    });
}

/// Puts a container into its pools, or takes it out of them.
fn put_into_pools(lab: &Lab, container: &str, interface: &serde_json::Value, is_in: bool) {
    let mut interface = interface.clone();
    if !is_in {
        for c in interface["properties"]["ipConfigurations"].as_array_mut().unwrap() {
            c["properties"]["loadBalancerBackendAddressPools"] = serde_json::json!([]);
        }
    }
    let file = lab.file(&format!("{container}-{is_in}.json"), &interface);
    let applied = lab.cli(&["apply", "-f", file.to_str().unwrap()]);
    assert!(applied.status.success(), "{}", text(&applied));
}

/// Slow transfers at once; each writes its exit code, size and number of connections.
fn transfers(lab: &Lab, n: usize) -> std::process::Child {
    let line = format!(
        "d=$(mktemp -d) && cd \"$d\" && curl -s --parallel --parallel-max {n} --parallel-immediate \
         -H 'Connection: close' -r 0-3999999 -w '%{{exitcode}} %{{size_download}} %{{num_connects}}\\n' \
         -o 'void-#1' 'http://203.0.113.10/slow?[1-{n}]'; cd / && rm -rf \"$d\""
    );
    lab.start("client", &line)
}

#[test]
fn no_transfer_breaks_when_containers_come_and_go_and_a_mux_is_killed() {
    let lab = lab!();
    let interfaces = BLUE.map(|name| lab.cli_json(&["get", "networkInterfaces", name]));
    put_into_pools(lab, "blue-3", &interfaces[2], false);
    lab.wait_until(Duration::from_secs(5), "blue-3 leaves", || {
        !lab.out("client", "curl -s -H 'Connection: close' 'http://203.0.113.10/?[1-60]'").contains("blue-3")
    });
    let by_mux1 = || lab.metric("mux1", "penstock_mux_received_packets_total", "");
    let passed_on = || -> f64 {
        ["host1", "host2"].iter().map(|h| lab.metric(h, "penstock_host_passed_on_packets_total", "")).sum()
    };
    let before = (by_mux1(), passed_on());
    let old = transfers(lab, 120);
    std::thread::sleep(Duration::from_millis(1500));
    // What is open stays where it is, also at the one who leaves; what comes now goes to the others.
    put_into_pools(lab, "blue-3", &interfaces[2], true);
    put_into_pools(lab, "blue-1", &interfaces[0], false);
    lab.wait_until(Duration::from_secs(5), "blue-1 leaves and blue-3 comes", || {
        let seen = tally(&lab.out("client", "curl -s -H 'Connection: close' 'http://203.0.113.10/?[1-60]'"));
        seen.keys().map(String::as_str).eq(["blue-2", "blue-3"])
    });
    let new = transfers(lab, 80);
    std::thread::sleep(Duration::from_millis(1500));
    let through_mux1 = by_mux1() - before.0;
    lab.script(&["kill", "mux1"]);
    let outs = [old, new].map(|child| child.wait_with_output().unwrap());
    let passed_on = passed_on() - before.1;
    lab.script(&["start", "mux1"]);
    put_into_pools(lab, "blue-1", &interfaces[0], true);
    let whole = |out: &std::process::Output| {
        String::from_utf8_lossy(&out.stdout).lines().filter(|l| *l == "0 4000000 1").count()
    };
    assert_eq!(outs.each_ref().map(whole), [120, 80], "{} {}", text(&outs[0]), text(&outs[1]));
    println!("{passed_on} packets had a second chance");
    assert!(passed_on > 0.0, "no connection that mux2 did not know was in a slot that moved");
    // Acknowledgements of its half of 200 transfers; far more than that many.
    assert!(through_mux1 > 200.0, "mux1 had no traffic to lose: {through_mux1} packets");
    lab.wait_until(Duration::from_secs(10), "mux1 announces again", || routed_by(lab, "203.0.113.10") == [1, 2]);
}

/// Muxes that the router's kernel has a route to the VIP over.
fn routed_by(lab: &Lab, vip: &str) -> Vec<u32> {
    let family = if vip.contains(':') { "-6" } else { "-4" };
    let text = lab.out("router", &format!("ip {family} route show {vip}"));
    (1..=2)
        .filter(|n| text.contains(&format!("via 10.1.{n}.2 ")) || text.contains(&format!("via fd00:1:{n}::2 ")))
        .collect()
}

fn wait_for_both_muxes(lab: &Lab) {
    for vip in ["203.0.113.10", "203.0.113.20", "2001:db8:f::10"] {
        lab.wait_until(Duration::from_secs(15), "both muxes announce", || routed_by(lab, vip) == [1, 2]);
    }
}

#[test]
fn only_vips_with_a_healthy_backend_are_announced_and_the_reason_is_told() {
    let lab = lab!();
    wait_for_both_muxes(lab);
    let green = ["green-1", "green-2", "green-3"];
    green.iter().for_each(|c| drop(lab.script(&["container-stop", c])));
    lab.wait_until(Duration::from_secs(8), "the other tenant's VIP is withdrawn", || {
        routed_by(lab, "203.0.113.20").is_empty()
    });
    assert_eq!(routed_by(lab, "203.0.113.10"), [1, 2]);
    lab.wait_until(Duration::from_secs(5), "the reason is told", || {
        text(&lab.cli(&["bgp", "explain", "203.0.113.20"])).contains("is not announced: no backend is healthy")
    });
    green.iter().for_each(|c| drop(lab.script(&["container-start", c])));
    wait_for_both_muxes(lab);
    let explained = text(&lab.cli(&["bgp", "explain", "203.0.113.10"]));
    assert!(
        explained.contains("mux1: 203.0.113.10/32") && explained.contains("advertised to router 10.1.1.1"),
        "{explained}"
    );
    let bfd = lab.cli_json(&["bfd"]);
    let up = bfd.as_array().unwrap().iter().filter(|b| b["state"] == "up" && b["detectionMilliseconds"] == 300).count();
    assert_eq!(up, 4, "two muxes, two families: {bfd}");
}

#[test]
fn a_mux_that_freezes_is_left_within_one_bfd_interval() {
    let lab = lab!();
    wait_for_both_muxes(lab);
    let pid = std::fs::read_to_string(lab.state().join("pid/mux1")).unwrap();
    let pid = pid.trim();
    // The interface stays up and no connection is closed: only BFD can tell.
    let line = format!(
        "trap 'kill -CONT {pid}' EXIT; s=$(date +%s%3N); kill -STOP {pid}; \
         while ip route show 203.0.113.10 | grep -q 'via 10.1.1.2 '; do [ $(($(date +%s%3N) - s)) -lt 5000 ] || break; done; \
         echo $(($(date +%s%3N) - s))"
    );
    let mut times = Vec::new();
    // What else the machine does is no fault of the mux's: one of three times counts.
    while times.len() < 3 && times.last().is_none_or(|took| *took >= 400) {
        times.push(lab.out("router", &line).parse::<u64>().unwrap());
        println!("the router left the frozen mux after {times:?} ms");
        wait_for_both_muxes(lab);
    }
    assert!(times.iter().any(|took| *took < 400), "{times:?} ms");
}

#[test]
fn a_mux_that_is_told_to_stop_loses_no_connection() {
    let lab = lab!();
    wait_for_both_muxes(lab);
    let line = "end=$((SECONDS + 5)); n=0; while [ $SECONDS -lt $end ]; do \
                curl -sf -m 2 -o /dev/null http://203.0.113.10/ || echo failed; n=$((n + 1)); done; echo $n";
    let clients: Vec<_> = (0..2).map(|_| lab.start("client", line)).collect();
    std::thread::sleep(Duration::from_millis(500));
    lab.script(&["stop", "mux1"]);
    assert_eq!(routed_by(lab, "203.0.113.10"), [2]);
    lab.script(&["start", "mux1"]);
    for client in clients {
        let out = text(&client.wait_with_output().unwrap());
        assert!(!out.contains("failed"), "{out}");
        assert!(out.trim().parse::<u32>().unwrap() > 50, "{out}");
    }
    wait_for_both_muxes(lab);
}

/// Removes what a test has added when it ends, however it ends.
struct Added<'a>(&'a Lab, &'static str, &'static str);

impl Drop for Added<'_> {
    fn drop(&mut self) {
        let _ = self.0.cli(&["delete", self.1, self.2]);
    }
}

#[test]
fn containers_reach_the_outside_by_leased_ports_of_a_virtual_ip() {
    let lab = lab!();
    let pool = serde_json::json!({"resourceRef": "/loadBalancers/blue-web/backendAddressPools/web"});
    let front = serde_json::json!([{"resourceRef": "/loadBalancers/blue-web/frontendIPConfigurations/v4"}]);
    let rule = serde_json::json!({
        "resourceRef": "/loadBalancers/blue-web/outboundNatRules/out", "resourceId": "out",
        "properties": {"protocol": "All", "frontendIPConfigurations": front, "backendAddressPool": pool}
    });
    let file = lab.file("out.json", &rule);
    let applied = lab.cli(&["apply", "-f", file.to_str().unwrap()]);
    assert!(applied.status.success(), "{}", text(&applied));
    let _added = Added(lab, "loadBalancers/blue-web/outboundNatRules", "out");
    let server = lab.start("client", "cd /usr/share && exec timeout 60 python3 -u -m http.server 8099 2>&1");
    lab.wait_until(Duration::from_secs(10), "a container reaches the outside", || {
        lab.ok("blue-1", "curl -sf -m 1 -o /dev/null http://198.51.100.2:8099/")
    });
    for container in BLUE {
        let codes = lab.out(
            container,
            "curl -s -m 20 --parallel --parallel-max 20 -H 'Connection: close' -o /dev/null -w '%{http_code}\\n' 'http://198.51.100.2:8099/?[1-100]'",
        );
        assert_eq!(codes.lines().filter(|l| *l == "200").count(), 100, "{container}: {codes}");
        assert!(lab.ok(container, "ping -c 2 -W 2 198.51.100.2"), "{container} has no answer to its ping");
    }
    // Without a rule there is no way out.
    assert!(!lab.ok("green-1", "curl -sf -m 1 -o /dev/null http://198.51.100.2:8099/"));
    lab.run("client", "pkill -f 'http.server 8099'");
    let log = server.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let seen: std::collections::BTreeSet<&str> =
        log.lines().filter(|l| l.contains("GET")).filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(seen, ["203.0.113.10"].into(), "the server sees the virtual IP alone");
}

#[test]
fn an_inbound_nat_rule_leads_to_one_container() {
    let lab = lab!();
    let front = serde_json::json!([{"resourceRef": "/loadBalancers/blue-web/frontendIPConfigurations/v4"}]);
    let rule = serde_json::json!({
        "resourceRef": "/loadBalancers/blue-web/inboundNatRules/one", "resourceId": "one",
        "properties": {"protocol": "Tcp", "frontendPort": 8200, "backendPort": 8080, "frontendIPConfigurations": front}
    });
    let mut interface = lab.cli_json(&["get", "networkInterfaces", "blue-2"]);
    let original = lab.file("blue-2.json", &interface);
    let first = &mut interface["properties"]["ipConfigurations"][0]["properties"];
    first["loadBalancerInboundNatRules"] =
        serde_json::json!([{"resourceRef": "/loadBalancers/blue-web/inboundNatRules/one"}]);
    for (name, what) in [("one.json", &rule), ("named.json", &interface)] {
        let file = lab.file(name, what);
        let applied = lab.cli(&["apply", "-f", file.to_str().unwrap()]);
        assert!(applied.status.success(), "{}", text(&applied));
    }
    lab.wait_until(Duration::from_secs(5), "the port serves", || {
        lab.ok("client", "curl -sf -m 1 http://203.0.113.10:8200/")
    });
    let output = lab.out("client", "curl -s -H 'Connection: close' 'http://203.0.113.10:8200/?[1-30]'");
    assert_eq!(tally(&output).into_iter().collect::<Vec<_>>(), [("blue-2".to_owned(), 30)]);
    assert!(lab.cli(&["apply", "-f", original.to_str().unwrap()]).status.success());
    assert!(lab.cli(&["delete", "loadBalancers/blue-web/inboundNatRules", "one"]).status.success());
}
