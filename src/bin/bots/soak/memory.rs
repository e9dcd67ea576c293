//! The memory of the server's process, where the system tells it.

/// Its resident memory in kB; `None` if the system does not say.
pub(crate) fn resident_kb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_memory_and_nobody_has_none() {
        assert!(super::resident_kb(std::process::id()).is_some_and(|kb| kb > 100));
        assert_eq!(super::resident_kb(u32::MAX), None);
    }
}
