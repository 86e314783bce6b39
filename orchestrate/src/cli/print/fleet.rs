//! A fleet's document, for people.

use orchestrate::Planned;
use orchestrate::fleet::converge::Act;
use orchestrate::fleet::{Faults, Status, StatusLine};

use crate::cli::print::text::{put, safe};

pub(crate) fn checked(faults: &Faults) -> String {
    if faults.is_empty() {
        return "the document is good: sign it with minisign -S\n".into();
    }
    let mut text = String::new();
    for fault in &faults.faults {
        put(&mut text, format_args!("{}\n", safe(&fault.to_string())));
    }
    if faults.more > 0 {
        put(&mut text, format_args!("and {} more\n", faults.more));
    }
    text
}

pub(crate) fn status(status: &Status, by_daemon: bool) -> String {
    let mut text = String::new();
    let none = || "none".to_owned();
    let (class, site) = (status.class.clone(), status.site.clone());
    put(
        &mut text,
        format_args!(
            "fleet {}, class {}: {}\nhost {}, site {}{}\n",
            safe(&status.fleet),
            safe(&class.unwrap_or_else(none)),
            safe(&status.url),
            safe(&status.host),
            safe(&site.unwrap_or_else(none)),
            if status.hold { ", only looks (fleet.hold)" } else { "" },
        ),
    );
    let age = match status.age_s {
        Some(age) => format!("found to be the newest {age} s ago"),
        None => "never found to be the newest".to_owned(),
    };
    match status.serial {
        Some(serial) => {
            let paused = if status.paused { ", paused" } else { "" };
            put(&mut text, format_args!("document {serial} is in force{paused}, {age}\n"));
        }
        None => put(&mut text, format_args!("no document is in force\n")),
    }
    if let Some(why) = &status.refused {
        put(&mut text, format_args!("what is there now is not in force: {}\n", safe(why)));
    }
    if !by_daemon {
        put(&mut text, format_args!("no daemon runs here, so nothing is done by the document\n"));
    }
    lines(&mut text, "images", &status.images);
    lines(&mut text, "activations", &status.activations);
    lines(&mut text, "to be removed", &status.remove);
    text
}

fn lines(text: &mut String, title: &str, lines: &[StatusLine]) {
    if lines.is_empty() {
        return;
    }
    put(text, format_args!("{title}\n"));
    for line in lines {
        let image = line.image.as_deref().unwrap_or("-");
        let rollout = match line.in_rollout {
            Some(true) => "in",
            Some(false) => "not in yet",
            None => "",
        };
        put(
            text,
            format_args!(
                "  {:<20} {:<9} {:<10} {}\n",
                safe(&line.name),
                line.state,
                rollout,
                safe(image)
            ),
        );
        if let Some(why) = &line.why {
            let wait = line.wait_s.map_or(String::new(), |s| format!("; {s} s more"));
            put(text, format_args!("    {}{wait}\n", safe(why)));
        }
    }
}

pub(crate) fn planned(planned: &Planned) -> String {
    let mut text = String::new();
    lines(&mut text, "images", &planned.status.images);
    lines(&mut text, "activations", &planned.status.activations);
    lines(&mut text, "to be removed", &planned.status.remove);
    let acts: Vec<String> = planned.acts.iter().filter_map(act).collect();
    match acts.is_empty() {
        true => put(&mut text, format_args!("nothing would be done here\n")),
        false => put(
            &mut text,
            format_args!("would be done first, once each moment has come that it waits for\n"),
        ),
    }
    for act in acts {
        put(&mut text, format_args!("  {}\n", safe(&act)));
    }
    text
}

fn act(act: &Act) -> Option<String> {
    Some(match act {
        Act::Ensure { image } => format!("ensure {image}"),
        Act::Activate { name, image } => format!("activate {image} --name {name}"),
        Act::Replace { name } => format!("rm {name}, to make it again"),
        Act::Remove { image } => format!("rm {image}"),
        Act::Wait { .. } => return None,
    })
}
