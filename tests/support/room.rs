//! A working folder of its own, in which the program is run.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The folder; removed at the end.
pub struct Room(TempDir);

impl Room {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("HF_HOME", self.path("hub"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary is built")
    }

    /// The output of a command that must succeed.
    pub fn prints(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// A command that must fail with this exit code and these words, print no result and leave no new
    /// file.
    pub fn refuses(&self, code: i32, says: &[&str], args: &[&str]) {
        let before = self.files();
        let output = self.run(args);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        for words in says {
            assert!(
                stderr.contains(words),
                "{args:?}: no `{words}` in: {stderr}"
            );
        }
        assert!(!stderr.contains("defect"), "{stderr}");
        assert_eq!(self.files(), before, "{args:?}");
    }

    /// Names of what lies in it.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("readable");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// What a command said beside its result.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
