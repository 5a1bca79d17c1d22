//! `[update]`: where new versions come from, and how long one is on trial.

use serde::Deserialize;
use std::time::Duration;
use supervisor::config::DurationText;

/// `[update]`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct UpdateSection {
    source: Option<String>,
    check: Option<DurationText>,
    ca: Option<String>,
    probation: Option<DurationText>,
    timeout: Option<DurationText>,
    deadline: Option<DurationText>,
    tries: Option<u32>,
}

/// `[update]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateConfig {
    /// Path or URL of the manifest; without one, only `initctl update SOURCE` updates.
    pub source: Option<String>,
    /// How often the source is looked at; never by itself if not given.
    pub check: Option<Duration>,
    /// A PEM file of the certificate authorities that are trusted instead of the public ones.
    pub ca: Option<String>,
    /// How long a new version must be healthy, with no service restarted, to be kept.
    pub probation: Duration,
    /// Since the kernel's start, after which a version that is not kept by then is given up.
    pub timeout: Duration,
    /// How long an update may take, from its start to its end.
    pub deadline: Duration,
    /// How often a version is tried that ends without a verdict, as by a power cut.
    pub tries: u32,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            source: None,
            check: None,
            ca: None,
            probation: Duration::from_secs(120),
            timeout: Duration::from_secs(900),
            deadline: Duration::from_secs(2 * 3600),
            tries: 2,
        }
    }
}

/// Whether this can be a source: the path or URL of a manifest. What it names is judged when it is opened.
///
/// # Errors
/// Why not.
pub fn check_source(source: &str) -> Result<(), String> {
    match ["http://", "https://", "/"]
        .iter()
        .any(|start| source.starts_with(start))
    {
        true => Ok(()),
        false => Err(format!(
            "{source:?} is no http:// or https:// URL and no absolute path"
        )),
    }
}

/// Whether the source that the kernel's command line names may be looked at. The host of a virtual machine can
/// append to that line, and must not thereby open what the image has closed: where the configuration has an
/// https source, a plain http one would let whoever is on the path see and choose what is fetched.
///
/// # Errors
/// Why not.
pub fn check_command_line(source: &str, configured: Option<&str>) -> Result<(), String> {
    check_source(source)?;
    let secure = configured.is_some_and(|configured| configured.starts_with("https://"));
    match secure && source.starts_with("http://") {
        true => Err(format!(
            "{source:?} is plain http, and update.source of the configuration is https"
        )),
        false => Ok(()),
    }
}

/// A check is a request to somebody's server, so not too often.
const CHECK_MIN: Duration = Duration::from_secs(10);

/// The least that an update may take: its manifest alone has two minutes.
const DEADLINE_MIN: Duration = Duration::from_secs(5 * 60);

impl UpdateSection {
    /// Lays another over it.
    pub fn merge(&mut self, over: Self) {
        let Self {
            source,
            check,
            ca,
            probation,
            timeout,
            deadline,
            tries,
        } = over;
        self.source = source.or_else(|| self.source.take());
        self.check = check.or(self.check);
        self.ca = ca.or_else(|| self.ca.take());
        self.probation = probation.or(self.probation);
        self.timeout = timeout.or(self.timeout);
        self.deadline = deadline.or(self.deadline);
        self.tries = tries.or(self.tries);
    }

    /// Checks the sense of it. Each error has its key.
    pub fn settle(self) -> (UpdateConfig, Vec<(&'static str, String)>) {
        let default = UpdateConfig::default();
        let of = |text: Option<DurationText>, default| text.map_or(default, |text| text.0);
        let config = UpdateConfig {
            source: self.source,
            check: self.check.map(|text| text.0),
            ca: self.ca,
            probation: of(self.probation, default.probation),
            timeout: of(self.timeout, default.timeout),
            deadline: of(self.deadline, default.deadline),
            tries: self.tries.unwrap_or(default.tries),
        };
        let mut wrong = Vec::new();
        let mut add = |key, text: String| wrong.push((key, format!("update.{key}: {text}")));
        match &config.source {
            Some(source) => {
                if let Err(why) = check_source(source) {
                    add("source", why);
                }
            }
            None if config.check.is_some() => {
                add("check", "there is no update.source to look at".into());
            }
            None => {}
        }
        if config.check.is_some_and(|check| check < CHECK_MIN) {
            add("check", format!("more often than every {CHECK_MIN:?}"));
        }
        if let Some(ca) = config.ca.as_ref().filter(|ca| !ca.starts_with('/')) {
            add("ca", format!("{ca:?} is not an absolute path"));
        }
        if config.timeout <= config.probation {
            add(
                "timeout",
                format!(
                    "{:?} leaves no time for a probation of {:?}",
                    config.timeout, config.probation
                ),
            );
        }
        if config.deadline < DEADLINE_MIN {
            add(
                "deadline",
                format!("less than {DEADLINE_MIN:?} is too little for any update"),
            );
        }
        if !(1..=10).contains(&config.tries) {
            add("tries", format!("{} is not from 1 to 10", config.tries));
        }
        (config, wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(text: &str) -> Result<UpdateConfig, String> {
        let section: UpdateSection = toml::from_str(text).map_err(|e| e.to_string())?;
        let (config, wrong) = section.settle();
        for (key, e) in &wrong {
            assert!(e.starts_with(&format!("update.{key}: ")), "{e}");
        }
        match wrong.into_iter().next() {
            Some((_, e)) => Err(e),
            None => Ok(config),
        }
    }

    #[test]
    fn defaults_and_values() {
        assert_eq!(settle(""), Ok(UpdateConfig::default()));
        let config = settle("source = '/var/u.json'\ncheck = '6h'\ntries = 3\nprobation = '30s'");
        let config = config.unwrap();
        assert_eq!(config.check, Some(Duration::from_secs(6 * 3600)));
        assert_eq!((config.tries, config.probation.as_secs()), (3, 30));
        assert_eq!(config.deadline.as_secs(), 7200);
        assert_eq!(settle("deadline = '1h'").unwrap().deadline.as_secs(), 3600);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, expected) in [
            ("source = 'ftp://x'", "update.source"),
            ("check = '6h'", "no update.source"),
            ("source = '/a'\ncheck = '1s'", "more often"),
            ("ca = 'x.pem'", "not an absolute path"),
            ("probation = '1h'", "leaves no time"),
            ("deadline = '1m'", "too little"),
            ("tries = 0", "not from 1 to 10"),
            ("sauce = '/a'", "unknown field"),
        ] {
            let error = settle(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_command_line_opens_nothing_that_the_configuration_has_closed() {
        let check = |source: &str, configured: &str| check_command_line(source, Some(configured));
        let https = "https://a/update.json";
        assert_eq!(check_command_line("http://b/u.json", None), Ok(()));
        assert_eq!(check("http://b/u.json", "http://a/u.json"), Ok(()));
        for source in ["https://b/u.json", "/var/u.json"] {
            assert_eq!(check(source, https), Ok(()));
        }
        assert!(
            check("http://b/u.json", https)
                .unwrap_err()
                .contains("plain http")
        );
        for source in ["--keys=/var/x", "ftp://b/u.json", "u.json", ""] {
            assert!(
                check(source, https)
                    .unwrap_err()
                    .contains("no absolute path")
            );
        }
    }

    #[test]
    fn laid_over_key_by_key() {
        let mut below: UpdateSection = toml::from_str("source = '/a'\ntries = 3").unwrap();
        below.merge(toml::from_str("tries = 4\ncheck = '1h'").unwrap());
        let (config, _) = below.settle();
        assert_eq!((config.source.as_deref(), config.tries), (Some("/a"), 4));
    }
}
