//! The XML that S3 answers with, read by pull: no document tree, no entities, a bound on depth.
//!
//! Not the documents' meaning (`listing.rs`, `answer.rs`). serde's view of XML trims blanks, which
//! are part of a key, and does not look at the root's name; so the events are walked here.

use quick_xml::events::{BytesRef, Event};
use quick_xml::{Reader, XmlVersion};

/// Deeper than any S3 answer; more is an attack on somebody's stack.
const DEPTH_MAX: usize = 16;

/// What is wrong with a document.
#[derive(Debug)]
pub(crate) enum Fault {
    Syntax(Box<quick_xml::Error>),
    Rule(&'static str),
}

impl From<quick_xml::Error> for Fault {
    fn from(error: quick_xml::Error) -> Fault {
        Fault::Syntax(Box::new(error))
    }
}

/// What [`walk`] calls: the path of an element and its text; an `Err` ends the walk.
pub(crate) type Leaf<'a> = dyn FnMut(&[String], &str) -> Result<(), &'static str> + 'a;

/// Calls `leaf(path, text)` at the end of every element, innermost first; `path` has the element
/// names from the root down, `text` the characters directly inside, unescaped and untrimmed.
pub(crate) fn walk(document: &[u8], root: &str, leaf: &mut Leaf<'_>) -> Result<(), Fault> {
    let document = std::str::from_utf8(document).map_err(|_| Fault::Rule("not UTF-8"))?;
    let mut reader = Reader::from_str(document);
    let mut path: Vec<String> = Vec::new();
    let mut texts: Vec<String> = Vec::new();
    let mut ended = false;
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                let name = local(start.local_name().into_inner());
                if ended || (path.is_empty() && name != root) {
                    return Err(Fault::Rule("another root element"));
                }
                if path.len() >= DEPTH_MAX {
                    return Err(Fault::Rule("nested too deep"));
                }
                path.push(name);
                texts.push(String::new());
            }
            Event::Empty(empty) => {
                let name = local(empty.local_name().into_inner());
                if ended || (path.is_empty() && name != root) {
                    return Err(Fault::Rule("another root element"));
                }
                ended = path.is_empty();
                path.push(name);
                leaf(&path, "").map_err(Fault::Rule)?;
                path.pop();
            }
            Event::End(_) => {
                let text = texts.pop().unwrap_or_default();
                leaf(&path, &text).map_err(Fault::Rule)?;
                path.pop();
                ended = path.is_empty();
            }
            Event::Text(text) => {
                let text =
                    text.xml_content(XmlVersion::Implicit1_0).map_err(quick_xml::Error::from)?;
                append(&mut texts, &text)?;
            }
            Event::CData(text) => {
                let text =
                    text.xml_content(XmlVersion::Implicit1_0).map_err(quick_xml::Error::from)?;
                append(&mut texts, &text)?;
            }
            Event::GeneralRef(reference) => append(&mut texts, &resolve(&reference)?)?,
            Event::DocType(_) => return Err(Fault::Rule("a document type is not accepted")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof if ended => return Ok(()),
            Event::Eof => return Err(Fault::Rule("ends too early")),
        }
    }
}

/// The first text of each named child of the root, in the order of `names`.
pub(crate) fn texts(
    document: &[u8],
    root: &str,
    names: &[&str],
) -> Result<Vec<Option<String>>, Fault> {
    let mut found = vec![None; names.len()];
    walk(document, root, &mut |path, text| {
        if let [_, name] = path
            && let Some(i) = names.iter().position(|n| n == name)
        {
            found[i].get_or_insert_with(|| text.to_owned());
        }
        Ok(())
    })?;
    Ok(found)
}

fn local(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn append(texts: &mut [String], text: &str) -> Result<(), Fault> {
    match texts.last_mut() {
        Some(last) => last.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(Fault::Rule("text outside the root element")),
    }
    Ok(())
}

/// The five entities of XML 1.0 section 4.6 and character references; nobody may define more.
fn resolve(reference: &BytesRef<'_>) -> Result<String, Fault> {
    if let Some(c) = reference.resolve_char_ref()? {
        return Ok(c.to_string());
    }
    let name = reference.decode().map_err(quick_xml::Error::from)?;
    let text = match name.as_ref() {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => return Err(Fault::Rule("an unknown entity")),
    };
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_its_blanks_and_entities() {
        let got = texts(b"<R><K> a&amp;b&#x0a;</K></R>", "R", &["K"]).unwrap();
        assert_eq!(got[0].as_deref(), Some(" a&b\n"));
    }

    #[test]
    fn attacks_are_refused() {
        let bomb = b"<!DOCTYPE R [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><R><K>&b;</K></R>";
        assert!(matches!(
            texts(bomb, "R", &["K"]),
            Err(Fault::Rule("a document type is not accepted"))
        ));
        assert!(texts(b"<R><K>&xxe;</K></R>", "R", &["K"]).is_err());
        assert!(texts(b"<Other/>", "R", &[]).is_err());
        assert!(texts(b"<R/><R/>", "R", &[]).is_err());
        assert!(texts(b"<R><K>", "R", &[]).is_err());
        assert!(texts(b"<R><K></R></K>", "R", &[]).is_err());
        assert!(texts("<a>".repeat(1_000_000).as_bytes(), "a", &[]).is_err());
        assert!(texts(b"\xff", "R", &[]).is_err());
    }
}
