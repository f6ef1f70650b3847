//! Work on a thread of its own, while the caller's thread waits in short steps: it lets Ctrl-C
//! through and calls progress callbacks.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use arrowquant::monitor::Event;
use arrowquant::{Error, Monitor, panics};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors;

/// How long the caller waits before it looks after signals and progress again.
const STEP: Duration = Duration::from_millis(20);
/// How long a cancelled job may take to stop, and its source after that, before both are left to
/// end by themselves.
const GRACE: Duration = Duration::from_millis(100);

/// How much there is to do, once it is known.
#[derive(Default)]
pub(crate) struct Total(OnceLock<(u64, u64)>);

impl Total {
    pub(crate) fn set(&self, bytes: u64, layers: u64) {
        // Each job sets it once.
        let _ = self.0.set((bytes, layers));
    }
}

/// A Python callable that hears of progress, and how far it is.
struct Progress {
    callback: Py<PyAny>,
    events: Receiver<Event>,
    total: Arc<Total>,
    bytes: u64,
    layers: u64,
}

impl Progress {
    /// Call back for each finished layer, and once for bytes of layers that are not.
    fn report(&mut self, py: Python<'_>) -> PyResult<()> {
        let mut between = false;
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Bytes(bytes) => {
                    self.bytes += bytes;
                    between = true;
                }
                Event::Layer(name) => {
                    self.layers += 1;
                    between = false;
                    self.callback.call1(py, (true, name, self.fraction(), self.bytes))?;
                }
            }
        }
        if between {
            self.callback.call1(py, (false, None::<String>, self.fraction(), self.bytes))?;
        }
        Ok(())
    }

    /// By bytes, where each layer weighs one more so that the last one ends at exactly 1.
    fn fraction(&self) -> Option<f64> {
        let (bytes, layers) = self.total.0.get()?;
        let total = (bytes + layers).max(1) as f64;
        Some(((self.bytes + self.layers) as f64 / total).min(1.0))
    }
}

/// Let a source that is Python code, a generator, end too: nothing else would stop it.
#[cfg(unix)]
fn interrupt<T>(py: Python<'_>, thread: &thread::JoinHandle<T>) -> PyResult<()> {
    use std::os::unix::thread::JoinHandleExt;
    // CPython's thread identifiers are those of pthreads.
    let ident = thread.as_pthread_t();
    py.import("arrowquant._interrupt")?.call_method1("raise_in_thread", (ident,))?;
    Ok(())
}

#[cfg(not(unix))]
fn interrupt<T>(_: Python<'_>, _: &thread::JoinHandle<T>) -> PyResult<()> {
    Ok(())
}

/// Run `job` on this thread, with the GIL released.
pub(crate) fn here<T: Send>(
    py: Python<'_>,
    job: impl FnOnce() -> Result<T, Error> + Send,
) -> PyResult<T> {
    match py.detach(|| panics::catch(job)) {
        Ok(result) => result.map_err(|error| errors::raise(py, error)),
        Err(panic) => Err(errors::panic(&panic)),
    }
}

/// Run `job` and wait for it. `callback(finished, layer_name, fraction, bytes)` is called on this
/// thread; its exception, or that of a signal handler, cancels the job and is raised.
pub(crate) fn run<T: Send + 'static>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    job: impl FnOnce(&Monitor, &Total) -> Result<T, Error> + Send + 'static,
) -> PyResult<T> {
    let total = Arc::new(Total::default());
    let (sender, mut progress) = match callback {
        Some(callback) => {
            let (sender, events) = channel();
            let total = Arc::clone(&total);
            (Some(sender), Some(Progress { callback, events, total, bytes: 0, layers: 0 }))
        }
        None => (None, None),
    };
    let monitor = Arc::new(Monitor::new(sender));
    let (finish, finished) = channel();
    // `detach` wants what it borrows to be shareable; nobody else ever locks this.
    let finished = Mutex::new(finished);
    let wait = |time| finished.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(time);
    let worker = Arc::clone(&monitor);
    let thread = thread::Builder::new()
        .name("arrowquant-job".to_owned())
        .spawn(move || {
            let result = panics::catch(|| job(&worker, &total));
            // A caller that was interrupted has stopped listening.
            let _ = finish.send(result);
        })
        .map_err(|error| PyRuntimeError::new_err(format!("no thread could be started: {error}")))?;
    loop {
        let outcome = py.detach(|| wait(STEP));
        let heard = progress
            .as_mut()
            .map_or(Ok(()), |progress| progress.report(py))
            .and_then(|()| py.check_signals());
        if let Err(error) = heard {
            monitor.cancel();
            // Whatever it ends with, the exception at hand is what the caller gets.
            if py.detach(|| wait(GRACE)).is_err_and(|gone| gone == RecvTimeoutError::Timeout) {
                let _ = interrupt(py, &thread);
                let _ = py.detach(|| wait(GRACE));
            }
            return Err(error);
        }
        match outcome {
            Ok(Ok(result)) => return result.map_err(|error| errors::raise(py, error)),
            Ok(Err(panic)) => return Err(errors::panic(&panic)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(errors::panic("the job is gone")),
        }
    }
}
