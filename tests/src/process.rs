//! Child processes that never outlive a test run: killed on drop, and by a reaper should the run itself be killed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::procfs;

/// How long a process may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(40);
/// Time between two looks whether a process has ended.
const INTERVAL: Duration = Duration::from_millis(5);
/// Lines of its output that are printed when a test fails.
const LOG_TAIL: usize = 60;

/// A running child process whose output goes to a file.
///
/// Dropping it kills it with SIGKILL and waits for its end. When the thread that drops it is panicking, the end of
/// its output is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its stdout and stderr are appended to `log`.
    pub fn spawn(name: impl Into<String>, mut command: Command, log: &Path) -> Self {
        let name = name.into();
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .expect("open the log file")
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|error| panic!("start {name} ({}): {error}", command.get_program().display()));
        reaper().tell("process", &child.id().to_string());
        Self {
            name,
            child,
            log: log.to_owned(),
            ended: None,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, when it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for the child");
            if self.ended.is_some() {
                reaper().tell("forget", &self.child.id().to_string());
            }
        }
        self.ended
    }

    /// Sends a signal; does nothing when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            // It may end between the two calls; then there is nobody to signal.
            let _ = kill(Pid::from_raw(self.pid() as i32), signal);
        }
    }

    /// SIGSTOP, and waits until every thread stands still, for one that is running may still answer.
    pub(crate) async fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
        while !procfs::is_stopped(self.pid()) {
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_blocking(STOP_PATIENCE);
    }

    /// SIGTERM, and waits for the end while the tasks of this runtime go on: clients that live there must be able to take
    /// leave.
    ///
    /// # Panics
    /// When it does not end within 40 s.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(STOP_PATIENCE).await
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not end within `patience`.
    pub async fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} did not end within {patience:?}",
                self.name
            );
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// [`Self::wait`] for `drop`, where nothing can be awaited.
    pub(crate) fn wait_blocking(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.exit_status().is_none() && Instant::now() < deadline {
            std::thread::sleep(INTERVAL);
        }
        // A panic while another one unwinds would abort the whole run.
        let ended = self.ended.is_some() || std::thread::panicking();
        assert!(ended, "{} did not end within {patience:?}", self.name);
    }

    /// Everything that it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
            let _ = writeln!(std::io::stderr(), "--- {} ---\n{tail}", self.name);
        }
    }
}

/// A shell that outlives this process for a moment: when its stdin ends, whatever the reason, it kills what is still
/// listed and removes the listed directories. It covers what `drop` cannot: statics, and a test run that is killed.
#[derive(Debug)]
pub(crate) struct Reaper {
    shell: Mutex<Child>,
}

const REAPER_SCRIPT: &str = r#"
trap '' INT TERM HUP
processes=' '
directories=' '
while read -r verb what; do
    case $verb in
    process) processes="$processes$what " ;;
    directory) directories="$directories$what " ;;
    forget) processes=$(printf '%s' "$processes" | sed "s| $what | |") ;;
    esac
done
for process in $processes; do kill -QUIT "$process"; done
sleep 0.3
for process in $processes; do kill -KILL "$process"; done
for directory in $directories; do rm -rf "$directory"; done
"#;

impl Reaper {
    /// Lists a `process` or a `directory`, or makes it `forget` a process.
    pub(crate) fn tell(&self, verb: &str, what: &str) {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = shell.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{verb} {what}").expect("the reaper runs as long as this process");
    }
}

/// The reaper of this process.
pub(crate) fn reaper() -> &'static Reaper {
    static REAPER: OnceLock<Reaper> = OnceLock::new();
    REAPER.get_or_init(|| {
        let shell = Command::new("sh")
            .args(["-c", REAPER_SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start sh");
        Reaper {
            shell: Mutex::new(shell),
        }
    })
}
