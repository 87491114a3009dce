//! What a process has used, from `/proc`.

use std::path::PathBuf;
use std::time::Duration;

/// Clock ticks per second in `/proc/<pid>/stat`: `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of a process, user and system, its ended children that it has waited for included, to 10 ms. Zero when it does
/// not exist.
pub fn cpu(pid: u32) -> Duration {
    let stat = read(pid, "stat");
    // utime, stime, cutime, cstime are fields 14 to 17 of the line.
    let ticks: u64 = fields(&stat)
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// [`cpu`] of a process and of all its living descendants.
pub fn cpu_of_tree(root: u32) -> Duration {
    tree(root).into_iter().map(cpu).sum()
}

/// The largest resident set that a process has had, in bytes (`VmHWM`).
pub fn peak_memory(pid: u32) -> u64 {
    kibibytes(&read(pid, "status"), "VmHWM:") * 1024
}

/// The resident set of a process, in bytes (`VmRSS`).
pub fn resident_memory(pid: u32) -> u64 {
    kibibytes(&read(pid, "status"), "VmRSS:") * 1024
}

/// Memory of a process and its descendants, in bytes, each shared page counted once (`Pss`).
pub fn memory_of_tree(root: u32) -> u64 {
    tree(root)
        .into_iter()
        .map(|pid| kibibytes(&read(pid, "smaps_rollup"), "Pss:") * 1024)
        .sum()
}

/// Whether no thread of a process runs: each was stopped by a signal, or it has ended.
pub fn is_stopped(pid: u32) -> bool {
    threads(pid).all(|thread| {
        let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
        let state = fields(&stat).next().map(str::to_owned);
        state.is_none_or(|state| matches!(state.as_str(), "T" | "Z" | "X"))
    })
}

/// A process and its living descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        for thread in threads(pid) {
            let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        next += 1;
    }
    found
}

/// The fields of a `stat` file from the third one, the state, on. The second one is the program's name in parentheses and may
/// hold anything.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(')').next().unwrap_or_default().split_whitespace()
}

/// The folders of a process's threads.
fn threads(pid: u32) -> impl Iterator<Item = PathBuf> {
    let found = std::fs::read_dir(format!("/proc/{pid}/task"));
    found.into_iter().flatten().flatten().map(|thread| thread.path())
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}")).join(file)).unwrap_or_default()
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let me = std::process::id();
        let before = cpu(me);
        let mut sum = 0u64;
        while cpu(me) < before + Duration::from_millis(20) {
            sum = (0..100_000).fold(sum, u64::wrapping_add);
        }
        assert!(cpu_of_tree(me) >= cpu(me) && sum > 0);
        let resident = resident_memory(me);
        assert!(resident > 1 << 20 && peak_memory(me) >= resident);
        assert!(memory_of_tree(me) > 1 << 19);
    }

    #[test]
    fn children_are_in_the_tree() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(
            tree(std::process::id())
                .iter()
                .filter(|&&pid| pid == child.id())
                .count(),
            1
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
