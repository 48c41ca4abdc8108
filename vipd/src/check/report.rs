//! What was found, and how it is printed.

use std::fmt;

/// Whether something stands in the way of `vipd run`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It would serve, but not as well as it could, or not through the next failover.
    Warn,
    /// It would not start, or not serve.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How it is.
    pub severity: Severity,
    /// What was looked at, such as `sentinel 198.18.0.101:26379`.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// What to do, where the text does not say it.
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Ok, subject, text)
    }

    /// See [`Severity::Warn`].
    pub fn warn(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Warn, subject, text)
    }

    /// See [`Severity::Fail`].
    pub fn fail(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Fail, subject, text)
    }

    /// With any severity.
    pub fn new(severity: Severity, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity, subject: subject.into(), text: text.into(), advice: None }
    }

    /// And what to do about it.
    pub fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Everything that was looked at, in the order in which a person reads it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// One line each.
    pub findings: Vec<Finding>,
    /// Process of the vipd that serves with this configuration's pin directory and socket now.
    pub running: Option<u32>,
}

impl Report {
    /// Whether `vipd run` would serve.
    pub fn will_work(&self) -> bool {
        self.count(Severity::Fail) == 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Aligned lines, and one at the end that says whether `vipd run` would serve.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|it| it.subject.chars().count()).max().unwrap_or(0);
        for Finding { severity, subject, text, advice } in &self.findings {
            let mark = match severity {
                Severity::Ok => "ok",
                Severity::Warn => "warn",
                Severity::Fail => "FAIL",
            };
            let mut lines = text.lines();
            writeln!(f, "{mark:<4}  {subject:<width$}  {}", lines.next().unwrap_or_default())?;
            for line in lines {
                writeln!(f, "{:6}{:width$}  {}", "", "", line.trim())?;
            }
            if let Some(advice) = advice {
                writeln!(f, "{:6}{:width$}  -> {advice}", "", "")?;
            }
        }
        writeln!(f)?;
        let warnings = match self.count(Severity::Warn) {
            0 => String::new(),
            1 => " (1 warning)".to_owned(),
            many => format!(" ({many} warnings)"),
        };
        match (self.count(Severity::Fail), self.running) {
            (0, None) => writeln!(f, "`vipd run` would serve{warnings}"),
            (0, Some(pid)) => writeln!(
                f,
                "`vipd run` would serve{warnings}; vipd is running already (pid {pid}) and must be \
                 stopped first"
            ),
            (1, _) => writeln!(f, "`vipd run` would not serve: 1 problem{warnings}"),
            (many, _) => writeln!(f, "`vipd run` would not serve: {many} problems{warnings}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_the_last_one_decides() {
        let report = Report {
            findings: vec![
                Finding::ok("kernel", "Linux 6.18"),
                Finding::warn("interface eth0", "generic").advise("another NIC"),
                Finding::fail("VIP", "in use\nby somebody"),
            ],
            running: None,
        };
        assert_eq!(
            report.to_string(),
            "ok    kernel          Linux 6.18\n\
             warn  interface eth0  generic\n\
             \u{20}                     -> another NIC\n\
             FAIL  VIP             in use\n\
             \u{20}                     by somebody\n\
             \n\
             `vipd run` would not serve: 1 problem (1 warning)\n"
        );
        assert!(!report.will_work());
    }

    #[test]
    fn warnings_alone_do_not_keep_it_from_serving() {
        let findings = vec![Finding::ok("a", "b"), Finding::warn("c", "d")];
        let report = Report { findings, running: Some(7) };
        assert!(report.will_work());
        assert!(report.to_string().ends_with(
            "\n`vipd run` would serve (1 warning); vipd is running already (pid 7) and must be \
             stopped first\n"
        ));
        assert!(Report::default().will_work());
    }
}
