use crate::event::Event;
use penstock_model::Nanos;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// How a worker behaves between frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdlePolicy {
    /// How long after the last frame the worker goes on asking before it sleeps. A sleep and a wake-up cost some 10 us and
    /// a burst seldom pauses longer.
    pub spin: Duration,
    /// First sleep at most; frames and [`Waker::wake`] end it at once.
    pub first_sleep: Duration,
    /// Sleeps double up to this; it bounds how late periodic work (expiry, statistics) of an idle worker comes.
    pub longest_sleep: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(50),
            first_sleep: Duration::from_millis(1),
            longest_sleep: Duration::from_millis(100),
        }
    }
}

/// Ends the sleep of a [`Poller`] from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Event>);

impl Waker {
    /// Cheap; may be called any number of times.
    pub fn wake(&self) {
        self.0.raise();
    }
}

/// Adaptive polling: a busy worker never sleeps, an idle one sleeps in `poll(2)` until a frame or a wake-up comes.
///
/// Order of calls: [`Poller::new`] with the descriptors of the worker's ports; then after each round over all ports
/// [`Poller::round`] with the number of frames received.
#[derive(Debug)]
pub struct Poller {
    policy: IdlePolicy,
    waker: Waker,
    fds: Vec<libc::pollfd>,
    idle_since: Option<Nanos>,
    sleep: Duration,
}

impl Poller {
    /// # Errors
    /// No descriptor is left.
    pub fn new(fds: &[RawFd], policy: IdlePolicy) -> io::Result<Self> {
        let mut poller = Self {
            policy,
            waker: Waker(Arc::new(Event::new()?)),
            fds: Vec::new(),
            idle_since: None,
            sleep: policy.first_sleep,
        };
        poller.set_fds(fds);
        Ok(poller)
    }

    /// Replaces the descriptors, when ports come or go.
    pub fn set_fds(&mut self, fds: &[RawFd]) {
        let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        self.fds = fds.iter().copied().chain([self.waker.0.fd()]).map(entry).collect();
    }

    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// After a round that received `frames`: returns at once while there is traffic or was a moment ago, else sleeps.
    /// True if it slept.
    ///
    /// # Errors
    /// `poll(2)` failed.
    pub fn round(&mut self, frames: usize, now: Nanos) -> io::Result<bool> {
        if frames > 0 {
            self.idle_since = None;
            self.sleep = self.policy.first_sleep;
            return Ok(false);
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.since(since) < self.policy.spin {
            std::hint::spin_loop();
            return Ok(false);
        }
        self.wait()?;
        Ok(true)
    }

    fn wait(&mut self) -> io::Result<()> {
        let timeout = i32::try_from(self.sleep.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the pointer and length describe `fds`.
        let ready = unsafe { libc::poll(self.fds.as_mut_ptr(), self.fds.len() as libc::nfds_t, timeout) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        if ready == 0 {
            self.sleep = (self.sleep * 2).min(self.policy.longest_sleep);
            return Ok(());
        }
        self.sleep = self.policy.first_sleep;
        if self.fds.last().is_some_and(|waker| waker.revents & libc::POLLIN != 0) {
            self.waker.0.lower();
        }
        let broken = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        if self.fds.iter().all(|fd| fd.revents & libc::POLLIN == 0)
            && self.fds.iter().any(|fd| fd.revents & broken != 0)
        {
            // A port whose interface went away is readable for ever; its `poll` tells what is wrong. Do not spin on it.
            std::thread::sleep(self.policy.first_sleep);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn thread_cpu() -> Duration {
        // SAFETY: all zero is a valid `timespec`, and the call fills it.
        let mut t: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: `t` is writable.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    }

    fn since(start: Instant) -> Nanos {
        Nanos(start.elapsed().as_nanos() as u64)
    }

    #[test]
    fn an_idle_worker_uses_under_two_percent_of_a_core() {
        let mut poller = Poller::new(&[], IdlePolicy::default()).unwrap();
        let (start, cpu) = (Instant::now(), thread_cpu());
        while start.elapsed() < Duration::from_secs(1) {
            poller.round(0, since(start)).unwrap();
        }
        let used = (thread_cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(used < 0.02, "{:.2} % of a core", used * 100.0);
    }

    #[test]
    fn a_busy_worker_never_sleeps() {
        let mut poller = Poller::new(&[], IdlePolicy::default()).unwrap();
        for i in 0..10_000 {
            assert!(!poller.round(1, Nanos::from_secs(i)).unwrap());
            assert!(!poller.round(0, Nanos::from_secs(i)).unwrap(), "the first empty round comes at once");
        }
    }

    #[test]
    fn a_wake_up_ends_a_sleep_at_once() {
        let policy = IdlePolicy {
            spin: Duration::ZERO,
            first_sleep: Duration::from_secs(20),
            longest_sleep: Duration::from_secs(20),
        };
        let mut poller = Poller::new(&[], policy).unwrap();
        let waker = poller.waker();
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            waker.wake();
        });
        assert!(poller.round(0, Nanos(1)).unwrap());
        thread.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "slept for {:?}", start.elapsed());
    }
}
