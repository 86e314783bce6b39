//! The text of metrics: series with their labels.

use std::fmt::Write as _;

pub(crate) struct Text(pub(crate) String);

impl Text {
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP veneer_{name} {help}\n# TYPE veneer_{name} {kind}\n"));
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        match labels {
            "" => self.line(format_args!("veneer_{name} {value}\n")),
            _ => self.line(format_args!("veneer_{name}{{{labels}}} {value}\n")),
        }
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    pub(crate) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a String takes everything");
    }
}
