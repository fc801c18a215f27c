//! A pseudo-terminal, and what a person would see on it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::support::wait::eventually;

/// A terminal with a program on it.
pub struct Terminal {
    /// The side of whoever looks and types.
    person: OwnedFd,
    /// The side of the program, kept open so that its settings can be read when the program has ended.
    _device: File,
    program: Child,
    seen: Arc<Mutex<vt100::Parser>>,
    settings_before: String,
}

impl Terminal {
    /// Starts a program on a terminal of this size (rows and columns), as the leader of a session of its own.
    pub fn start(command: &Command, (rows, columns): (u16, u16)) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&person).expect("a terminal of ours");
        unlockpt(&person).expect("a terminal of ours");
        let path = ptsname(&person, Vec::new()).expect("its name").into_string().expect("in UTF-8");
        let device = File::options().read(true).write(true).open(&path).expect("its other side");
        let seen = Arc::new(Mutex::new(vt100::Parser::new(some(rows), some(columns), 0)));
        set_size(&person, rows, columns);
        let settings_before = settings(&person);

        let side = || Stdio::from(device.try_clone().expect("a descriptor"));
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm-256color");
        let program = leader.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid starts");

        let (mut output, shared) = (File::from(person.try_clone().expect("a descriptor")), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shared.lock().expect("no thread panics with it").process(&bytes[..count]);
            }
        });
        Self { person, _device: device, program, seen, settings_before }
    }

    /// The program's process.
    pub fn program(&self) -> &Child {
        &self.program
    }

    /// Types these characters.
    pub fn type_in(&self, text: &str) {
        File::from(self.person.try_clone().expect("a descriptor")).write_all(text.as_bytes()).expect("it is open");
    }

    /// Makes the window this large.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.seen.lock().expect("no thread panics with it").screen_mut().set_size(some(rows), some(columns));
        set_size(&self.person, rows, columns);
    }

    /// The screen at this moment.
    pub fn screen(&self) -> vt100::Screen {
        self.seen.lock().expect("no thread panics with it").screen().clone()
    }

    /// The screen once its text is as wanted.
    pub fn wait(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> vt100::Screen {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                let screen = self.screen();
                last = screen.contents();
                is_wanted(&last).then_some(screen)
            })
        }));
        found.unwrap_or_else(|_| panic!("no {what} on the screen:\n{last}"))
    }

    /// Waits for the program's end, which must be a good one, and checks that it left the terminal as it was.
    pub fn ends_as_it_was(mut self) {
        let status = eventually("the end of the program", || self.program.try_wait().expect("its state"));
        assert!(status.success(), "{status}");
        eventually("the terminal to be left", || (!self.screen().alternate_screen()).then_some(()));
        assert!(!self.screen().hide_cursor(), "the cursor is hidden");
        assert_eq!(settings(&self.person), self.settings_before);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn set_size(terminal: &OwnedFd, ws_row: u16, ws_col: u16) {
    tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).expect("a terminal");
}

fn some(length: u16) -> NonZeroU16 {
    NonZeroU16::new(length).expect("a window")
}

/// The modes of a terminal.
fn settings(terminal: &OwnedFd) -> String {
    let all = tcgetattr(terminal).expect("a terminal");
    format!("{:?} {:?} {:?} {:?}", all.input_modes, all.output_modes, all.control_modes, all.local_modes)
}
