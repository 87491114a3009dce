//! What lies in the directory of `dev`'s nats-server.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

/// Lines of its log that are shown when it does not start, or dies.
const LOG_LINES: usize = 5;

/// The directory of a nats-server, absolute.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
}

/// What nats-server writes into `ports_file_dir` once it listens.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("nats.conf")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("nats.log")
    }

    fn ports(&self) -> PathBuf {
        self.directory.join("ports")
    }

    fn port(&self) -> PathBuf {
        self.directory.join("port")
    }

    /// Makes ready for a new process, which is to listen on `port` or any free one: writes its configuration, and
    /// forgets where an earlier one listened. Gives its new log.
    pub(super) fn renew(&self, port: Option<u16>) -> io::Result<File> {
        match fs::remove_dir_all(self.ports()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(self.ports())?,
        }
        fs::write(self.config(), self.configuration(port))?;
        File::create(self.log())
    }

    fn configuration(&self, port: Option<u16>) -> String {
        // A JSON string is a string of nats-server's configuration too.
        let quoted = |path: PathBuf| serde_json::Value::from(path.to_string_lossy()).to_string();
        format!(
            "# Written by `cuitty-webhooks dev` at every start.\n\
             server_name: cuitty-webhooks-dev\n\
             listen: \"127.0.0.1:{port}\"\n\
             ports_file_dir: {ports}\n\
             jetstream {{\n  store_dir: {store}\n}}\n",
            port = port.map_or(-1, i32::from),
            ports = quoted(self.ports()),
            store = quoted(self.directory.join("store")),
        )
    }

    /// Where the process that was started since [`Files::renew`] listens; `None` while it does not, and while it is
    /// still writing that down. Whoever else may listen on the same port, nobody else writes here.
    pub(super) fn listening_port(&self) -> Option<u16> {
        let entries = fs::read_dir(self.ports()).ok()?.flatten();
        let mut told = entries.filter_map(|entry| fs::read(entry.path()).ok());
        told.find_map(|text| {
            let ports: Ports = serde_json::from_slice(&text).ok()?;
            ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
        })
    }

    /// The port of the last time.
    pub(super) fn last_port(&self) -> Option<u16> {
        let text = fs::read_to_string(self.port()).ok()?;
        text.trim().parse().ok().filter(|port| *port != 0)
    }

    pub(super) fn remember_port(&self, port: u16) -> io::Result<()> {
        fs::write(self.port(), port.to_string())
    }

    /// The last lines of its log.
    pub(super) fn log_end(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_port_that_can_be_listened_on_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        assert_eq!(files.last_port(), None);
        for (text, port) in [
            ("4222\n", Some(4222)),
            ("", None),
            ("0", None),
            ("65536", None),
            ("nats", None),
        ] {
            fs::write(files.port(), text).unwrap();
            assert_eq!(files.last_port(), port, "{text:?}");
        }
    }

    #[test]
    fn where_an_earlier_process_listened_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        files.renew(None).unwrap();
        assert_eq!(files.listening_port(), None);
        let told = files.ports().join("nats-server_1.ports");
        fs::write(&told, r#"{"nats":["nats://127.0"#).unwrap();
        assert_eq!(files.listening_port(), None, "half written");
        fs::write(&told, r#"{"nats":["nats://127.0.0.1:4242"]}"#).unwrap();
        assert_eq!(files.listening_port(), Some(4242));
        files.renew(Some(4242)).unwrap();
        assert_eq!(files.listening_port(), None);
    }
}
