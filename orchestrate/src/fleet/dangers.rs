//! A row for each danger: what a document may never bring about, each with the smallest case in which it would, and
//! the same case without what prevents it, in which the act does come.

use std::time::Duration;

use crate::error::class::Class;
use crate::fleet::cohort::Dice;
use crate::fleet::converge::{
    Act, ActivationFact, Facts, Failure, ImageFact, Live, Outlook, State, look,
};
use crate::fleet::document::Document;
use crate::fleet::guards::REMOVAL_PAUSE;
use crate::fleet::member::Me;
use crate::fleet::why::Why;

const NEW: &str = "s3://bkt/new/";
const OLD: &str = "s3://bkt/old/";
const GONE: &str = "s3://bkt/gone/";

/// Long after everything.
const NOW: Duration = Duration::from_secs(1_000_000);

fn document(more: &str) -> Document {
    let text = format!(r#"{{"version": 1, "serial": 7, "fleet": "f", {more}}}"#);
    Document::parse(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"))
}

fn me() -> Me {
    Me { fleet: "f".into(), host: "h".into(), site: Some("fra".into()), ..Me::default() }
}

fn of_document() -> ImageFact {
    ImageFact { document: true, ..ImageFact::default() }
}

/// A host that has these images by a document.
fn having(images: &[&str]) -> Facts {
    let images = images.iter().map(|image| ((*image).to_owned(), of_document()));
    Facts { images: images.collect(), ..Facts::default() }
}

fn seen(document: &Document, facts: &Facts, me: &Me) -> Outlook {
    look(document, facts, me, NOW, Dice(1))
}

fn acts(document: &Document, facts: &Facts) -> Vec<Act> {
    seen(document, facts, &me()).acts
}

fn ensure(image: &str) -> Act {
    Act::Ensure { image: image.into() }
}

const WANTS: &str = r#""images": {"a": {"image": "s3://bkt/new/"}}"#;
const REMOVES: &str = r#""remove": ["s3://bkt/gone/"]"#;
const WEB: &str =
    r#""images": {"a": {"image": "s3://bkt/new/"}}, "activations": {"web": {"image": "a"}}"#;
const WEB_REPLACED: &str = r#""images": {"a": {"image": "s3://bkt/new/"}},
    "activations": {"web": {"image": "a", "on_change": "replace"}}"#;

fn web(image: &str) -> ActivationFact {
    ActivationFact { image: image.into(), up: true, ..ActivationFact::default() }
}

#[test]
fn absence_of_a_thing_is_no_wish_to_remove_it() {
    let mut facts = having(&[NEW, OLD, GONE]);
    facts.activations.insert("web".into(), web(OLD));
    assert_eq!(acts(&document(r#""images": {}"#), &facts), []);
    assert_eq!(acts(&document(WANTS), &facts), []);
}

#[test]
fn only_what_is_named_goes_and_nothing_that_a_person_wants() {
    let (document, remove) = (document(REMOVES), Act::Remove { image: GONE.into() });
    assert_eq!(acts(&document, &having(&[NEW, OLD, GONE])), [remove]);
    type Change = fn(&mut Facts);
    let cases: [(&str, Change, Why); 6] = [
        ("pinned", |f| f.images.get_mut(GONE).unwrap().pinned = true, Why::Pinned),
        ("a person's too", |f| f.images.get_mut(GONE).unwrap().person = true, Why::Person),
        ("a person's", |f| f.images.get_mut(GONE).unwrap().document = false, Why::Person),
        ("active", |f| drop(f.activations.insert("x".into(), web(GONE))), Why::InUse),
        ("asked for now", |f| f.live.push(made(GONE, false)), Why::UnderWay),
        (
            "just failed",
            |f| {
                f.failures.insert(GONE.into(), failed(Class::Refused));
            },
            Why::Final(Class::Refused),
        ),
    ];
    for (told, change, why) in cases {
        let mut facts = having(&[GONE]);
        change(&mut facts);
        let outlook = seen(&document, &facts, &me());
        assert_eq!(outlook.acts, [], "{told}");
        assert_eq!(outlook.remove[0].why, Some(why), "{told}");
    }
}

fn made(image: &str, document: bool) -> Live {
    Live { subject: image.into(), image: Some(image.into()), document, takes_away: false }
}

fn failed(class: Class) -> Failure {
    Failure { serial: Some(7), class, tries: 1, at: NOW }
}

#[test]
fn one_image_an_hour_goes_and_a_start_counts_as_one() {
    let document = document(r#""remove": ["s3://bkt/gone/", "s3://bkt/old/", "s3://bkt/new/"]"#);
    let mut facts = having(&[NEW, OLD, GONE]);
    let removals = |acts: &[Act]| acts.iter().filter(|a| matches!(a, Act::Remove { .. })).count();
    assert_eq!(removals(&acts(&document, &facts)), 1);
    facts.lost = NOW - REMOVAL_PAUSE + Duration::from_secs(1);
    assert_eq!(acts(&document, &facts), [Act::Wait { until: NOW + Duration::from_secs(1) }]);
    facts.lost = NOW - REMOVAL_PAUSE;
    assert_eq!(removals(&acts(&document, &facts)), 1);
    // One that is on its way counts, however long it takes.
    facts.live.push(Live { takes_away: true, image: None, ..made("s3://bkt/x/", true) });
    assert_eq!(removals(&acts(&document, &facts)), 0);
}

/// Such a document is refused; one that came by another way does nothing all the same.
#[test]
fn what_is_wanted_is_not_removed_whatever_the_document_says() {
    for wanted in
        [r#""image": "s3://bkt/gone/""#, r#""image": "s3://bkt/x/", "before": "s3://bkt/gone/""#]
    {
        let text = format!(
            r#"{{"version": 1, "serial": 7, "fleet": "f", {REMOVES}, "images": {{"a": {{{wanted}}}}}}}"#
        );
        let faults = Document::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(faults.contains("remove:") && faults.contains("images.a."), "{faults}");
        let mut forged = document(&format!(r#""images": {{"a": {{{wanted}}}}}"#));
        forged.remove.insert(GONE.into());
        let all = acts(&forged, &having(&[GONE, "s3://bkt/x/"]));
        assert!(!all.iter().any(|act| matches!(act, Act::Remove { .. })), "{all:?}");
    }
}

#[test]
fn what_runs_is_not_swapped() {
    let mut facts = having(&[NEW, OLD]);
    facts.activations.insert("web".into(), web(OLD));
    let kept = seen(&document(WEB), &facts, &me());
    assert_eq!((kept.acts, kept.activations[0].why.clone()), (vec![], Some(Why::Kept)));
    let replace = Act::Replace { name: "web".into() };
    assert_eq!(acts(&document(WEB_REPLACED), &facts), [replace]);
    for (told, change, why) in [
        ("open", ActivationFact { open: true, ..web(OLD) }, Why::Open),
        ("a person's", ActivationFact { person: true, ..web(OLD) }, Why::Person),
    ] {
        facts.activations.insert("web".into(), change);
        let outlook = seen(&document(WEB_REPLACED), &facts, &me());
        assert_eq!(
            (outlook.acts, outlook.activations[0].why.clone()),
            (vec![], Some(why)),
            "{told}"
        );
    }
    // Nothing goes before what follows it is here.
    facts = having(&[OLD]);
    facts.activations.insert("web".into(), web(OLD));
    assert_eq!(acts(&document(WEB_REPLACED), &facts), [ensure(NEW)]);
    // What a person took down stays down.
    facts = having(&[NEW]);
    facts.activations.insert("web".into(), ActivationFact { up: false, ..web(NEW) });
    let outlook = seen(&document(WEB_REPLACED), &facts, &me());
    assert_eq!((outlook.acts, outlook.activations[0].state), (vec![], State::Left));
}

#[test]
fn a_store_does_not_run_full() {
    let document = document(&format!(r#"{WEB}, "pace": {{"max_used": 70}}"#));
    for (used, begun) in [(69, true), (70, false), (100, false)] {
        let facts = Facts { used, ..Facts::default() };
        assert_eq!(
            acts(&document, &facts),
            if begun { vec![ensure(NEW)] } else { vec![] },
            "{used}"
        );
        let facts = Facts { used, ..having(&[NEW]) };
        assert_eq!(acts(&document, &facts).len(), usize::from(begun), "{used}: the activation");
    }
}

#[test]
fn few_are_under_way_at_a_time_and_none_twice() {
    let images = (0..9).map(|n| format!(r#""i{n}": {{"image": "s3://bkt/{n}/"}}"#));
    let document = document(&format!(r#""images": {{{}}}"#, images.collect::<Vec<_>>().join(",")));
    let mut facts = Facts::default();
    let first = acts(&document, &facts);
    assert_eq!(first, [ensure("s3://bkt/0/"), ensure("s3://bkt/1/")]);
    facts.live = vec![made("s3://bkt/0/", true)];
    assert_eq!(acts(&document, &facts), [ensure("s3://bkt/1/")]);
    facts.live.push(made("s3://bkt/1/", true));
    assert_eq!(acts(&document, &facts), []);
    // People's runs take no place of it, and what a person has begun is not begun again.
    facts.live = (0..9).map(|n| made(&format!("s3://bkt/{n}/"), false)).collect();
    assert_eq!(acts(&document, &facts), []);
    facts.live.pop();
    assert_eq!(acts(&document, &facts), [ensure("s3://bkt/8/")]);
}

#[test]
fn a_bad_image_is_tried_once_and_the_host_stays_on_the_one_before() {
    let text = r#""images": {"a": {"image": "s3://bkt/new/", "before": "s3://bkt/old/"}},
        "activations": {"web": {"image": "a", "on_change": "replace"}}"#;
    let document = document(text);
    let mut facts = Facts::default();
    facts.failures.insert(NEW.into(), failed(Class::Refused));
    let outlook = seen(&document, &facts, &me());
    assert_eq!(outlook.acts, [ensure(OLD)]);
    assert_eq!(outlook.images[0].state, State::Failed);
    facts.images.insert(OLD.into(), of_document());
    facts.activations.insert("web".into(), web(OLD));
    assert_eq!(acts(&document, &facts), [], "it stays");
    // The next document is tried once, too.
    facts.failures.insert(NEW.into(), Failure { serial: Some(6), ..failed(Class::Refused) });
    facts.failures.get_mut(NEW).unwrap().at = Duration::ZERO;
    assert_eq!(acts(&document, &facts), [ensure(NEW)]);
}

#[test]
fn what_may_pass_is_tried_again_later_and_later_and_not_by_all_at_once() {
    let document = document(WANTS);
    let longest = |tries: u32| {
        let until = (0..200).map(|host| {
            let facts = Facts {
                failures: [(NEW.to_owned(), Failure { tries, ..failed(Class::Temporary) })].into(),
                ..Facts::default()
            };
            let me = Me { host: format!("h{host}"), ..me() };
            match look(&document, &facts, &me, NOW, Dice(3)).acts.as_slice() {
                [Act::Wait { until }] => *until - NOW,
                other => panic!("{other:?}"),
            }
        });
        let all: Vec<Duration> = until.collect();
        let (least, most) = (*all.iter().min().unwrap(), *all.iter().max().unwrap());
        assert!(least >= Duration::from_secs(1) && most > least * 5, "{least:?} {most:?}");
        most.as_secs()
    };
    assert!((20..=30).contains(&longest(1)), "{}", longest(1));
    assert!((100..=120).contains(&longest(3)), "{}", longest(3));
    assert!((500..=600).contains(&longest(40)), "{}", longest(40));
    // After the pause it is tried again.
    let early = Failure { at: NOW - Duration::from_secs(600), ..failed(Class::Temporary) };
    let facts = Facts { failures: [(NEW.to_owned(), early)].into(), ..Facts::default() };
    assert_eq!(acts(&document, &facts), [ensure(NEW)]);
}

#[test]
fn a_held_host_and_a_paused_document_do_nothing() {
    let text = format!(r#"{WEB_REPLACED}, {REMOVES}"#);
    let facts = having(&[GONE]);
    assert_eq!(acts(&document(&text), &facts).len(), 2, "else it does");
    let held = seen(&document(&text), &facts, &Me { hold: true, ..me() });
    assert_eq!((held.acts, held.images[0].why.clone()), (vec![], Some(Why::Hold)));
    let paused = seen(&document(&format!(r#"{text}, "paused": true"#)), &facts, &me());
    assert_eq!((paused.acts, paused.remove[0].why.clone()), (vec![], Some(Why::Paused)));
}

#[test]
fn nothing_begins_before_its_catalog() {
    let document = document(&format!(r#"{WANTS}, "catalog": {{"serial_min": 5}}"#));
    for (catalog, begun) in [(None, 0), (Some(4), 0), (Some(5), 1), (Some(6), 1)] {
        let facts = Facts { catalog, ..Facts::default() };
        assert_eq!(acts(&document, &facts).len(), begun, "{catalog:?}");
    }
}

#[test]
fn hosts_begin_apart() {
    let document = document(&format!(r#"{WANTS}, "pace": {{"spread_s": 300}}"#));
    let facts = Facts { since: NOW, ..Facts::default() };
    let moments = (0..100).map(|host| {
        let me = Me { host: format!("h{host}"), ..me() };
        match look(&document, &facts, &me, NOW, Dice(1)).acts.as_slice() {
            [Act::Wait { until }] => (*until - NOW).as_secs(),
            [] | [_, ..] => 0,
        }
    });
    let mut moments: Vec<u64> = moments.collect();
    moments.sort_unstable();
    assert!(moments[99] < 300 && moments[90] > 200 && moments[10] < 100, "{moments:?}");
    let later = Facts { since: NOW - Duration::from_secs(300), ..Facts::default() };
    assert_eq!(acts(&document, &later), [ensure(NEW)]);
}

#[test]
fn who_has_no_site_is_in_no_roll_out_by_sites_and_is_told_so() {
    let rollout = |percent: u32, by: &str| {
        document(&format!(
            r#""images": {{"a": {{"image": "s3://bkt/new/", "before": "s3://bkt/old/",
                "rollout": {{"salt": "s", "percent": {percent}, "by": "{by}"}}}}}}"#
        ))
    };
    let stray = Me { site: None, ..me() };
    for (document, me, wanted, why) in [
        (rollout(100, "site"), &stray, OLD, Some(Why::NoSite)),
        (rollout(100, "site"), &me(), NEW, None),
        (rollout(100, "host"), &stray, NEW, None),
        (rollout(0, "host"), &me(), OLD, Some(Why::Later { bucket: 0, parts: 0 })),
    ] {
        let outlook = seen(&document, &Facts::default(), me);
        assert_eq!(outlook.acts, [ensure(wanted)]);
        let here = look(&document, &having(&[wanted]), me, NOW, Dice(1));
        let told = here.images[0].why.clone();
        // By itself the place is arbitrary.
        let told = told.map(|why| match why {
            Why::Later { parts, .. } => Why::Later { bucket: 0, parts },
            why => why,
        });
        // The new image is here in the second case of the first row only by the roll-out.
        assert_eq!(told, why);
    }
}

#[test]
fn a_smaller_percent_takes_nothing_back() {
    let text = r#""images": {"a": {"image": "s3://bkt/new/", "before": "s3://bkt/old/",
        "rollout": {"salt": "s", "percent": 0}}},
        "activations": {"web": {"image": "a", "on_change": "replace"}}"#;
    let mut facts = having(&[NEW]);
    facts.activations.insert("web".into(), web(NEW));
    let outlook = seen(&document(text), &facts, &me());
    assert_eq!((outlook.acts, outlook.images[0].why.clone()), (vec![], Some(Why::HasIt)));
    // Going back is a document that names the old one.
    let back = r#""images": {"a": {"image": "s3://bkt/old/"}},
        "activations": {"web": {"image": "a", "on_change": "replace"}}"#;
    assert_eq!(acts(&document(back), &facts), [ensure(OLD)]);
}

#[test]
fn a_host_that_is_not_meant_does_nothing() {
    let text = r#""images": {"a": {"image": "s3://bkt/new/", "before": "s3://bkt/old/",
        "where": {"site": ["ams"]}}, "b": {"image": "s3://bkt/x/", "where": {"labels": {"disk": ["nvme"]}}}},
        "activations": {"web": {"image": "a"}}"#;
    let outlook = seen(&document(text), &Facts::default(), &me());
    assert_eq!(outlook.acts, []);
    assert_eq!(outlook.images[0].why, Some(Why::OtherSite("fra".into())));
    assert_eq!(outlook.images[1].why, Some(Why::Label("disk".into())));
    assert_eq!(outlook.activations[0].state, State::NotHere);
    let labels = [("disk".to_owned(), "nvme".to_owned())].into();
    let meant = Me { site: Some("ams".into()), labels, ..me() };
    assert_eq!(seen(&document(text), &Facts::default(), &meant).acts.len(), 2);
}
