//! Where the time goes: the stages of a packet's way through the mux, one after the other, each with those before it.
use super::Random;
use super::measure::{measure, report};
use super::mux::{Mux, Traffic};
use crate::report::Report;
use penstock_engine::{Class, Resolver};
use penstock_flow::{FlowHasher, FlowTable};
use penstock_model::{Coarse, Epoch, Nanos};
use penstock_wire::{Headers, parse_into};
use std::hint::black_box;

const FLOWS: u64 = 1_000_000;

pub(crate) fn run(out: &mut Report) {
    if out.wants("core/stage/parse") {
        let mut mux = Mux::new(false, 1024);
        let traffic = Traffic::random(FLOWS, 60, false);
        let mut headers = Headers::default();
        let cost = measure(|| {
            mux.fill(&traffic);
            mux.pool.run(|batch| {
                for packet in batch {
                    black_box(parse_into(packet.frame(), &mut headers).is_ok());
                    black_box(&headers);
                }
            })
        });
        report(out, "core/stage/parse", Some(FLOWS), 64, cost, None);
    }
    for (name, in_transition) in [("core/stage/parse+classify", false), ("core/stage/parse+classify-flow", true)] {
        if out.wants(name) {
            classify(out, name, in_transition);
        }
    }
    lookup(out);
}

/// Parse, then virtual IP, slot and (in a transition) the key and hash of the flow.
fn classify(out: &mut Report, name: &str, in_transition: bool) {
    let mut mux = Mux::new(in_transition, 1024);
    let traffic = Traffic::random(FLOWS, 60, false);
    let cost = measure(|| {
        mux.fill(&traffic);
        let mut headers = Headers::default();
        let resolver = mux.port.resolver_mut();
        resolver.refresh(Nanos(0));
        mux.pool.run(|batch| {
            for packet in batch {
                if parse_into(packet.frame(), &mut headers).is_ok() {
                    let class = black_box(resolver.classify(packet, &mut headers));
                    debug_assert!(matches!(class, Class::Direct { .. } | Class::Flow { .. }));
                }
            }
        })
    });
    report(out, name, Some(FLOWS), 64, cost, None);
}

/// The bare table: hash, prefetch over a batch, look up.
fn lookup(out: &mut Report) {
    for flows in super::FLOWS {
        let name = "core/stage/flow-lookup";
        if !out.wants(name) {
            continue;
        }
        let hasher = FlowHasher::new([5; 16]);
        let key = |n: u64| [n, n ^ 0xffff, 7];
        let mut table = FlowTable::<[u64; 3], u32>::new(flows as usize);
        let now = Coarse(1000);
        for n in 0..flows {
            let k = key(n);
            let inserted =
                table.insert_established(k, hasher.hash3(&k), n as u32, Epoch(1), 300, now, |k| hasher.hash3(k));
            inserted.unwrap_or_else(|_| panic!("{n} of {flows} flows fit"));
        }
        let mut random = Random::new();
        let mut keys = vec![[0; 3]; super::pool::Pool::PACKETS];
        let cost = measure(|| {
            keys.iter_mut().for_each(|k| *k = key(random.below(flows)));
            let start = super::pool::processor_time();
            for batch in keys.chunks(64) {
                let mut hashes = [0; 64];
                for (hash, k) in hashes.iter_mut().zip(batch) {
                    *hash = hasher.hash3(k);
                    table.prefetch(*hash);
                }
                for (hash, k) in hashes.iter().zip(batch) {
                    black_box(table.lookup(k, *hash, now));
                }
            }
            super::pool::processor_time() - start
        });
        let bytes = table.bytes() as f64 / flows as f64;
        report(out, name, Some(flows), 0, cost, Some(bytes));
    }
}
