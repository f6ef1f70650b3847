//! The thread between a caller and the work done for it: progress one way, cancellation the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

/// What has been done since the last event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// So many bytes of weights were worked through.
    Bytes(u64),
    /// A layer is finished, quantized, kept or failed.
    Layer(Option<String>),
}

/// Shared by a caller and the work: cheap to ask, safe from any thread.
#[derive(Debug, Default)]
pub struct Monitor {
    cancelled: AtomicBool,
    events: Option<Sender<Event>>,
}

impl Monitor {
    /// A monitor that sends progress to `events`; to nobody where `None`.
    pub fn new(events: Option<Sender<Event>>) -> Self {
        Self { cancelled: AtomicBool::new(false), events }
    }

    /// Ask the work to stop; it does so within a tile's time.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether anybody listens to progress.
    pub fn is_watched(&self) -> bool {
        self.events.is_some()
    }

    pub(crate) fn bytes(&self, bytes: usize) {
        self.send(Event::Bytes(bytes as u64));
    }

    pub(crate) fn layer(&self, name: Option<&str>) {
        if self.is_watched() {
            self.send(Event::Layer(name.map(str::to_owned)));
        }
    }

    fn send(&self, event: Event) {
        // A listener that has gone away wants no more events.
        let _ = self.events.as_ref().map(|events| events.send(event));
    }
}
