//! The tables.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::ceilings::Ceiling;
use crate::isolation::Backlog;
use crate::phase::Measured;
use crate::stack::Usage;

/// Throughput and latency of every load on one backend.
pub(crate) fn loads(backend: &str, loads: &[Measured]) -> String {
    let mut text = format!(
        "### {backend}: throughput and latency\n\n\
         | load | accepted/s | delivered/s | projected/s | end to end p50 | p99 | max | accept p50 | p99 | refused | lost | duplicates |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for load in loads {
        let (arrival, accept) = (&load.arrivals.latency, &load.offered.latency);
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            load.name,
            load.accepted_per_second(),
            load.delivered_per_second(),
            load.projected_per_second()
                .map_or_else(|| "not in time".into(), |rate| format!("{rate:.0}")),
            quantile(arrival, 0.5),
            quantile(arrival, 0.99),
            millis(arrival.max()),
            quantile(accept, 0.5),
            quantile(accept, 0.99),
            load.offered.refused,
            load.expected.saturating_sub(load.delivered()),
            load.duplicates(),
        );
    }
    text
}

/// CPU per delivery and memory of every process on one backend; CPU of the load at `index`.
pub(crate) fn processes(backend: &str, load: &Measured, idle: &[Usage], idle_for: Duration) -> String {
    let mut text = format!(
        "### {backend}: processes\n\n\
         | process | CPU-ms per delivery, {} | peak memory | idle CPU | idle memory |\n\
         |---|--:|--:|--:|--:|\n",
        load.name
    );
    let mut row = |name: &str, cpu: Duration, peak: u64, idle_cpu: Duration, memory: u64| {
        let _ = writeln!(
            text,
            "| {name} | {:.3} | {} | {:.2} % | {} |",
            cpu.as_secs_f64() * 1000.0 / load.delivered().max(1) as f64,
            mebibytes(peak),
            idle_cpu.as_secs_f64() * 100.0 / idle_for.as_secs_f64(),
            mebibytes(memory),
        );
    };
    for (used, idle) in load.usage.iter().zip(idle) {
        row(used.name, used.cpu, used.peak_memory, idle.cpu, idle.memory);
    }
    let sum = |all: &[Usage], value: fn(&Usage) -> u64| {
        all.iter().filter(|usage| usage.ours).map(value).sum::<u64>()
    };
    let cpu = |all: &[Usage]| {
        all.iter()
            .filter(|usage| usage.ours)
            .map(|usage| usage.cpu)
            .sum::<Duration>()
    };
    row(
        "**our roles together**",
        cpu(&load.usage),
        sum(&load.usage, |usage| usage.peak_memory),
        cpu(idle),
        sum(idle, |usage| usage.memory),
    );
    text
}

/// The raw ceilings.
pub(crate) fn ceilings(ceilings: &[Ceiling]) -> String {
    let mut text = "### Ceilings of this machine, same run\n\n\
         | loop | per second | p50 | p99 | CPU-µs per loop, this process | nats-server |\n\
         |---|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for ceiling in ceilings {
        let (p50, p99) = ceiling
            .p50_p99
            .map(|(p50, p99)| (millis(p50), millis(p99)))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {:.0} | {p50} | {p99} | {:.0} | {:.0} |",
            ceiling.name,
            ceiling.per_second,
            ceiling.own_cpu.as_secs_f64() * 1e6,
            ceiling.nats_cpu.as_secs_f64() * 1e6,
        );
    }
    text
}

/// What healthy endpoints feel of `hanging` others; the first load is without any of them.
pub(crate) fn hanging(hanging: u32, loads: &[Measured; 4]) -> String {
    let mut text = format!(
        "### Healthy endpoints beside {hanging} others with an event per second each\n\n\
         | load | end to end p50 | p99 | max | ratio of p50 | of p99 | refused | lost | duplicates |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for load in loads {
        let latency = &load.arrivals.latency;
        let ratio = |share| {
            let at = |load: &Measured| load.arrivals.latency.value_at_quantile(share).max(1) as f64;
            at(load) / at(&loads[0])
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {:.2} | {} | {} | {} |",
            load.name,
            quantile(latency, 0.5),
            quantile(latency, 0.99),
            millis(latency.max()),
            ratio(0.5),
            ratio(0.99),
            load.offered.refused,
            load.expected.saturating_sub(load.delivered()),
            load.duplicates(),
        );
    }
    text
}

/// What a dead endpoint costs.
pub(crate) fn dead(cost: &Backlog) -> String {
    let mut text = format!(
        "### {} deliveries waiting behind one dead endpoint\n\n\
         | process | memory, idle | above it with all of them waiting | at most |\n\
         |---|--:|--:|--:|\n",
        cost.waiting
    );
    for (idle, full) in cost.idle.iter().zip(&cost.full) {
        let above = |bytes: u64| mebibytes(bytes.saturating_sub(idle.memory));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            idle.name,
            mebibytes(idle.memory),
            above(full.memory),
            above(full.peak_memory),
        );
    }
    let span = cost.last.saturating_sub(cost.first);
    let _ = writeln!(
        text,
        "\n| recovered: first delivery after | first {} drained after | per second |\n\
         |--:|--:|--:|\n\
         | {:.1} s | {:.1} s | {:.0} |",
        cost.drained,
        cost.first.as_secs_f64(),
        cost.last.as_secs_f64(),
        f64::from(cost.drained) / span.as_secs_f64().max(f64::MIN_POSITIVE),
    );
    text
}

fn quantile(histogram: &Histogram<u64>, quantile: f64) -> String {
    millis(histogram.value_at_quantile(quantile))
}

/// Microseconds as milliseconds, with as many digits as mean something.
fn millis(micros: u64) -> String {
    let millis = micros as f64 / 1000.0;
    if millis < 100.0 {
        format!("{millis:.2} ms")
    } else {
        format!("{millis:.0} ms")
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
