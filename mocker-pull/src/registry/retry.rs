//! When to ask again, and when to give up.

use std::time::{Duration, Instant, SystemTime};

/// How often in a row a request may fail before it is given up.
const ATTEMPTS: u32 = 5;
/// The longest a registry may make us wait; beyond that a person decides.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Whatever is received less than this between two failures is no progress: a registry that gives a byte at a time would
/// be asked a million times.
const PROGRESS: u64 = 64 << 10;

/// Counts the failures of one request.
#[derive(Debug)]
pub struct Attempts {
    failed: u32,
    /// how many there may be
    most: u32,
    /// bytes since the last failure
    received: u64,
}

impl Default for Attempts {
    fn default() -> Self {
        Attempts { failed: 0, most: ATTEMPTS, received: 0 }
    }
}

impl Attempts {
    /// For a request that another will be asked if it fails.
    pub fn once() -> Self {
        Attempts { most: 1, ..Attempts::default() }
    }

    /// Another failure: how long to wait before the next attempt, or None if that was the last.
    ///
    /// The wait doubles from a quarter of a second; a random part keeps many clients from coming back all at once.
    /// What the registry asks for itself goes above that.
    pub fn wait(&mut self, asked: Option<Duration>, random: u8) -> Option<Duration> {
        self.failed += 1;
        self.received = 0;
        let doubled = Duration::from_millis(250) * (1 << (self.failed - 1).min(6));
        let jitter = doubled.mul_f64(f64::from(random) / 512.0);
        let wait = asked.map_or(doubled, |asked| asked.max(doubled)) + jitter;
        let bearable = asked.is_none_or(|asked| asked <= LONGEST_WAIT);
        (self.failed < self.most && bearable).then_some(wait)
    }

    /// Bytes were received. Enough of them, and the count begins anew: it is alive.
    pub fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
        if self.received >= PROGRESS {
            self.failed = 0;
        }
    }

    pub fn failed(&self) -> u32 {
        self.failed
    }
}

/// Less than this within the time that a registry may be silent is silence: a byte a minute would keep a pull for ever.
const SLOWEST: u64 = 1 << 10;

/// Watches how fast a body comes.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    since: Instant,
    received: u64,
}

impl Pace {
    pub fn new(window: Duration, now: Instant) -> Self {
        Pace { window, since: now, received: 0 }
    }

    /// Bytes have come: the failure, if they were too few for too long. Time in which nobody read is not the registry's: it
    /// is to be told by [`Pace::read_on`].
    pub fn received(&mut self, bytes: usize, now: Instant) -> Result<(), String> {
        self.received += bytes as u64;
        if now.duration_since(self.since) < self.window {
            return Ok(());
        }
        let received = std::mem::take(&mut self.received);
        self.since = now;
        match received < SLOWEST {
            true => Err(format!("it sends {received} bytes in {} s", self.window.as_secs())),
            false => Ok(()),
        }
    }

    /// Reading goes on after so long a break of our own.
    pub fn read_on(&mut self, after: Duration) {
        self.since += after;
    }
}

/// A random byte, for [`Attempts::wait`]. A fixed one does where there is none: it only spreads load.
pub fn random() -> u8 {
    let mut byte = [128u8; 1];
    rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK).unwrap_or_default();
    byte[0]
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). A date that is past means now. Thirty years in seconds are
/// none, but a date as Unix counts it: some services send that.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let date = match value.parse::<u64>() {
        Ok(seconds @ 1_000_000_000..=9_999_999_999) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        Ok(seconds) => return Some(Duration::from_secs(seconds.min(1 << 32))),
        Err(_) => http_date(value)?,
    };
    Some(date.duration_since(now).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers still send (RFC 9110, IMF-fixdate).
fn http_date(text: &str) -> Option<SystemTime> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_s_wish_to_wait_reads_in_both_forms() {
        let now = http_date("Sat, 08 Sep 2001 08:49:37 GMT").unwrap();
        let cases = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999", Some(1 << 32)),
            ("Sat, 08 Sep 2001 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("1000000000", Some(1_000_000_000 - 999_938_977)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn waiting_grows_is_spread_and_ends() {
        let mut attempts = Attempts::default();
        let waits: Vec<_> = std::iter::from_fn(|| attempts.wait(None, 0)).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000]);
        assert!(Attempts::default().wait(None, 255) > Attempts::default().wait(None, 0));
        let asked = |seconds| Attempts::default().wait(Some(Duration::from_secs(seconds)), 0);
        assert_eq!(asked(7), Some(Duration::from_secs(7)));
        assert_eq!(asked(3600), None, "nobody waits an hour for a program that seems to hang");
        assert_eq!(Attempts::once().wait(None, 0), None);
    }

    #[test]
    fn a_body_that_drips_is_silence_unless_we_are_slow_ourselves() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pace = Pace::new(Duration::from_secs(10), begun);
        assert_eq!(pace.received(1, at(5)), Ok(()));
        assert_eq!(pace.received(1, at(10)), Err("it sends 2 bytes in 10 s".into()));
        assert_eq!(pace.received(2000, at(19)), Ok(()));
        assert_eq!(pace.received(1, at(20)), Ok(()));
        pace.read_on(Duration::from_secs(100));
        assert_eq!(pace.received(1, at(125)), Ok(()));
        assert!(pace.received(1, at(130)).is_err());
    }

    #[test]
    fn the_count_begins_anew_with_progress_worth_the_name() {
        let failures = |bytes: usize| {
            let mut attempts = Attempts::default();
            let fails = |_: &u32| {
                attempts.received(bytes / 2);
                attempts.received(bytes / 2);
                attempts.wait(None, 0).is_some()
            };
            (1..=100).take_while(fails).count()
        };
        assert_eq!([failures(1000), failures(100_000)], [4, 100]);
    }
}
