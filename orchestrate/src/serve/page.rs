//! The page at `/`: one document that holds no data. What it shows it asks of the same interface as
//! every client, so who has no right sees an empty frame. The rules of its policy are those of CSP
//! level 3: only the script and the style that are in it, no address but where it came from.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use crate::serve::http::response::Response;

const HTML: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
const JS: &str = include_str!("page/page.js");

/// Document and policy, joined at the first question.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let html = HTML.replacen("{{css}}", CSS, 1).replacen("{{js}}", JS, 1);
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        base64(&Sha256::digest(JS)),
        base64(&Sha256::digest(CSS)),
    );
    (html, policy)
});

/// The document, and headers that keep it from doing anything else.
pub(super) fn page() -> Response {
    let (html, policy) = &*PAGE;
    Response::new(200, "text/html; charset=utf-8", html.clone().into_bytes())
        .with("Content-Security-Policy", policy)
        .with("Referrer-Policy", "no-referrer")
        .with("Cross-Origin-Opener-Policy", "same-origin")
        .with("Cross-Origin-Resource-Policy", "same-origin")
}

/// RFC 4648, section 4: what CSP writes hashes in.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3)
            .fold(0u32, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = bits >> (18 - 6 * at) & 63;
            let known = at <= three.len();
            text.push(if known { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
        let (_, rest) = text.split_once(from).expect(from);
        rest.split_once(to).expect(to).0
    }

    fn header<'a>(page: &'a Response, name: &str) -> &'a str {
        &page.headers.iter().find(|(found, _)| *found == name).expect(name).1
    }

    #[test]
    fn base64_is_as_the_rfc_has_it() {
        // RFC 4648, section 10.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn the_policy_names_the_script_and_the_style_that_are_in_it_and_no_other() {
        let page = page();
        let html = std::str::from_utf8(&page.body).unwrap();
        let policy = header(&page, "Content-Security-Policy");
        for (directive, from, to) in
            [("script-src", "<script>", "</script>"), ("style-src", "<style>", "</style>")]
        {
            assert_eq!(html.matches(from).count(), 1, "{from}");
            let inside = between(html, from, to);
            assert!(inside.len() > 1000, "{from} is empty");
            let allowed = format!("{directive} 'sha256-{}';", base64(&Sha256::digest(inside)));
            assert!(policy.contains(&allowed), "{policy}: not {allowed}");
        }
        assert!(policy.starts_with("default-src 'none'; "));
        for never in ["unsafe", "http", "*"] {
            assert!(!policy.contains(never), "{policy}");
        }
        assert_eq!(header(&page, "Referrer-Policy"), "no-referrer");
    }

    #[test]
    fn the_document_asks_nobody_else_and_makes_no_markup_of_data() {
        let page = page();
        let html = std::str::from_utf8(&page.body).unwrap();
        // `s3://` is how images are written; nothing is fetched by it.
        assert_eq!(html.matches("://").count(), html.matches("s3://").count(), "an address");
        for never in [
            "{{",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "createContextualFragment",
            "setHTML",
            "srcdoc",
            "eval(",
            "Function(",
            "import(",
            "localStorage",
            "@import",
            "url(",
            " src=",
            " style=",
            " onclick",
            "setAttribute(\"on",
        ] {
            assert!(!html.contains(never), "{never}");
        }
    }
}
