//! The id of a worker that is given none.

/// Host name and process id: different for all processes on a machine, and the same again when a container restarts,
/// where the host name is the pod's and the process always has the same id.
///
/// In a container with the host's network both are the same for all containers of the machine. There the number of the
/// process's namespace, which is the container's own, tells them apart.
pub fn default_worker_id() -> String {
    let host = host_name();
    let number = std::process::id().to_string();
    let is_shared = number == "1" && !is_host_name_of_container();
    let namespace = is_shared.then(|| std::fs::read_link("/proc/self/ns/pid").ok()).flatten();
    let namespace: Option<String> =
        namespace.map(|link| link.to_string_lossy().chars().filter(char::is_ascii_digit).collect());
    format!("{}-{}", host.as_deref().unwrap_or("worker"), namespace.unwrap_or(number))
}

/// Whether the host name belongs to this container alone: it is that of a namespace other than the machine's.
fn is_host_name_of_container() -> bool {
    /// The machine's own namespace of host names, by its fixed number (PROC_UTS_INIT_INO of Linux).
    const MACHINE: &str = "uts:[4026531838]";
    let in_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let in_variable = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let agree = in_variable.is_none_or(|name| in_kernel.is_some_and(|kernel| kernel.trim() == name));
    agree && std::fs::read_link("/proc/self/ns/uts").is_ok_and(|namespace| namespace.as_os_str() != MACHINE)
}

fn host_name() -> Option<String> {
    let from_variable = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command = || {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = from_variable.or_else(from_kernel).or_else(from_command)?;
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.trim().chars().filter(is_allowed).take(200).collect();
    (!name.is_empty()).then_some(name)
}
