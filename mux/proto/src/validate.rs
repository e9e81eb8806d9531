//! What a goal must satisfy before anything is built from it.

use crate::error::GoalError;
use crate::goal::{ALL_PORTS, Backend, MAX_PREVIOUS, MuxGoal, Pool, Service};
use crate::policy::{MAX_BACKEND, MAX_SERVICE};
use penstock_maps::VIP_CAPACITY;
use penstock_model::{Addr16, BackendId, Mac, PoolId, Protocol, Underlay};
use penstock_routing_proto::RouterGoal;
use penstock_spread::SlotTable;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Checks everything; the first problem is reported.
pub(crate) fn validate(goal: &MuxGoal, own: Underlay<IpAddr>) -> Result<(), GoalError> {
    let backends = validate_backends(&goal.backends, own)?;
    let pools = validate_pools(&goal.pools, &backends)?;
    validate_services(&goal.services, &pools, own)?;
    validate_snat(goal, &backends, own)?;
    validate_limits(goal)?;
    let router = goal.router.as_ref().map_or(Ok(()), RouterGoal::check);
    router.map_err(|e| GoalError::new(format!("router.{}", e.field), e.reason))
}

fn validate_snat(goal: &MuxGoal, backends: &HashSet<BackendId>, own: Underlay<IpAddr>) -> Result<(), GoalError> {
    let mut taken = HashSet::with_capacity(goal.snat.len());
    let mut shifts = HashMap::new();
    let mut vips: HashSet<IpAddr> = goal.services.iter().map(|s| s.vip).collect();
    let whole: HashSet<IpAddr> = goal.services.iter().filter(|s| s.port == ALL_PORTS).map(|s| s.vip).collect();
    for (i, block) in goal.snat.iter().enumerate() {
        let refuse = |field: &str, problem: String| Err(GoalError::new(format!("snat[{i}].{field}"), problem));
        if !is_unicast(block.vip) || block.vip == own.0 {
            return refuse("vip", format!("{} cannot be a virtual IP of this mux", block.vip));
        }
        if whole.contains(&block.vip) {
            return refuse("vip", format!("{} has a rule for all ports", block.vip));
        }
        vips.insert(block.vip);
        if vips.len() > VIP_CAPACITY as usize {
            return refuse("vip", format!("more than {VIP_CAPACITY} virtual IPs"));
        }
        if block.shift > 15 || *shifts.entry(block.vip).or_insert(block.shift) != block.shift {
            return refuse("shift", format!("{} is not the size of all blocks of {}", block.shift, block.vip));
        }
        if block.first & !(u16::MAX << block.shift) != 0 || block.first == 0 {
            return refuse("first", format!("{} is not the first port of a block", block.first));
        }
        if !taken.insert((block.vip, block.first)) {
            return refuse("first", format!("{} port {} is leased twice", block.vip, block.first));
        }
        if !backends.contains(&block.backend) {
            return refuse("backend", format!("there is no backend {}", block.backend));
        }
    }
    Ok(())
}

fn validate_limits(goal: &MuxGoal) -> Result<(), GoalError> {
    if goal.limits.is_empty() {
        return Ok(());
    }
    let vips: HashSet<IpAddr> = goal.services.iter().map(|s| s.vip).chain(goal.snat.iter().map(|b| b.vip)).collect();
    let mut seen = HashSet::with_capacity(goal.limits.len());
    for (i, limit) in goal.limits.iter().enumerate() {
        let refuse =
            |problem: &str| Err(GoalError::new(format!("limits[{i}].vip"), format!("{} {problem}", limit.vip)));
        if !vips.contains(&limit.vip) {
            return refuse("is no virtual IP of the goal");
        }
        if !seen.insert(limit.vip) {
            return refuse("is limited twice");
        }
    }
    Ok(())
}

fn validate_backends(list: &[Backend], own: Underlay<IpAddr>) -> Result<HashSet<BackendId>, GoalError> {
    let mut seen = HashSet::with_capacity(list.len());
    for (i, b) in list.iter().enumerate() {
        let refuse = |field: &str, problem: String| Err(GoalError::new(format!("backends[{i}].{field}"), problem));
        if b.id.0 > MAX_BACKEND {
            return refuse("id", format!("{} is out of range: at most {MAX_BACKEND}", b.id));
        }
        if !seen.insert(b.id) {
            return refuse("id", format!("{} is used twice", b.id));
        }
        if b.mac.is_group() || b.mac == Mac::ZERO {
            return refuse("mac", format!("{} is not the address of one station", b.mac));
        }
        if !is_unicast(b.dip.addr.0) {
            return refuse("dip.addr", format!("{} is not the address of one station", b.dip.addr.0));
        }
        if !is_unicast(b.host.0) {
            return refuse("host", format!("{} is not the address of one station", b.host.0));
        }
        if b.host.0.is_ipv4() != own.0.is_ipv4() {
            return refuse("host", format!("{} is not of the family of the mux's own address {}", b.host.0, own.0));
        }
    }
    Ok(seen)
}

fn validate_pools(list: &[Pool], backends: &HashSet<BackendId>) -> Result<HashSet<PoolId>, GoalError> {
    let mut seen = HashSet::with_capacity(list.len());
    for (i, p) in list.iter().enumerate() {
        if !seen.insert(p.id) {
            return Err(GoalError::new(format!("pools[{i}].id"), format!("{} is used twice", p.id)));
        }
        validate_table(&p.table, &format!("pools[{i}].table"))?;
        for (m, member) in p.table.members.iter().enumerate() {
            if !backends.contains(member) {
                let field = format!("pools[{i}].table.members[{m}]");
                return Err(GoalError::new(field, format!("there is no backend {member}")));
            }
        }
        if p.previous.len() > MAX_PREVIOUS {
            let problem = format!("{} tables, at most {MAX_PREVIOUS}", p.previous.len());
            return Err(GoalError::new(format!("pools[{i}].previous"), problem));
        }
        // A previous owner may have left the goal: its slots then have no such owner.
        for (k, previous) in p.previous.iter().enumerate() {
            validate_table(previous, &format!("pools[{i}].previous[{k}]"))?;
        }
    }
    Ok(seen)
}

fn validate_table(table: &SlotTable, field: &str) -> Result<(), GoalError> {
    table.validate().map_err(|e| {
        let text = e.to_string();
        match text.split_once(": ") {
            Some((at, problem)) => GoalError::new(format!("{field}.{at}"), problem),
            None => GoalError::new(field, text),
        }
    })
}

fn validate_services(list: &[Service], pools: &HashSet<PoolId>, own: Underlay<IpAddr>) -> Result<(), GoalError> {
    let mut ids = HashSet::with_capacity(list.len());
    let mut frontends = HashSet::with_capacity(list.len());
    let mut vips = HashSet::new();
    for (i, s) in list.iter().enumerate() {
        let refuse = |field: &str, problem: String| Err(GoalError::new(format!("services[{i}].{field}"), problem));
        if s.id.0 > MAX_SERVICE {
            return refuse("id", format!("{} is out of range: at most {MAX_SERVICE}", s.id));
        }
        if !ids.insert(s.id) {
            return refuse("id", format!("{} is used twice", s.id));
        }
        if !is_unicast(s.vip) {
            return refuse("vip", format!("{} cannot be a virtual IP", s.vip));
        }
        // The mux would take its own link to the controller, and its operator's, away from the kernel.
        if s.vip == own.0 {
            return refuse("vip", format!("{} is the mux's own address", s.vip));
        }
        vips.insert(s.vip);
        if vips.len() > VIP_CAPACITY as usize {
            return refuse(
                "vip",
                format!("more than {VIP_CAPACITY} virtual IPs, which is all that can be steered to a mux"),
            );
        }
        if s.protocol != Protocol::TCP && s.protocol != Protocol::UDP {
            return refuse("protocol", format!("{} cannot be balanced: TCP and UDP can", s.protocol));
        }
        if !frontends.insert((s.vip, s.protocol, s.port)) {
            return refuse("port", format!("{}:{}:{} is served twice", s.vip, s.protocol, s.port));
        }
        if !pools.contains(&s.pool) {
            return refuse("pool", format!("there is no pool {}", s.pool));
        }
    }
    Ok(())
}

fn is_unicast(ip: IpAddr) -> bool {
    let limited_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    let mapped = ip.is_ipv6() && Addr16::from(ip).is_v4();
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || limited_broadcast || mapped)
}
