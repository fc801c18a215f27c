//! The terminal: taken over for as long as a [`Screen`] lives, and left as it was.

use std::io;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::widgets::Paragraph;
use tokio::sync::mpsc;

use super::Watched;
use super::picture::{self, Paint};

/// A wish of the person who watches.
pub enum Input {
    Redraw,
    End,
}

/// A terminal in full-screen mode.
pub struct Screen {
    terminal: DefaultTerminal,
    input: mpsc::UnboundedReceiver<Input>,
    paint: Paint,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it can't be switched to full-screen mode.
    pub fn start() -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        let (sender, input) = mpsc::unbounded_channel();
        // Its end is the process's: reading keys can't be canceled.
        std::thread::Builder::new().name("keys".into()).spawn(move || send_input(&sender))?;
        Ok(Self { terminal, input, paint: Paint::from_environment() })
    }

    /// The next wish.
    pub async fn input(&mut self) -> Input {
        self.input.recv().await.unwrap_or(Input::End)
    }

    /// Fills the window.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, watched: &Watched) -> io::Result<()> {
        let paint = self.paint;
        self.terminal.draw(|frame| {
            let area = frame.area();
            let lines = picture::lines(watched, usize::from(area.width), usize::from(area.height), paint);
            frame.render_widget(Paragraph::new(lines), area);
        })?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn send_input(sender: &mpsc::UnboundedSender<Input>) {
    // Without a terminal there is nothing left to ask.
    while let Ok(event) = event::read() {
        let input = match event {
            Event::Resize(..) => Input::Redraw,
            Event::Key(key) if key.kind == KeyEventKind::Release => continue,
            Event::Key(key) => match key.code {
                KeyCode::Char('q') => Input::End,
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Input::End,
                _ => continue,
            },
            _ => continue,
        };
        if sender.send(input).is_err() {
            return;
        }
    }
    let _ = sender.send(Input::End);
}
