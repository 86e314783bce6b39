//! How far a catalog may be from the last one, and for how long it does.

use registry::Digest;

use crate::process::clock::now_ms;
use crate::trust::catalog::SERIAL_MAX;
use crate::trust::keys::Distrust;

/// Whether a catalog of this serial may be believed after the one that is `known`. Pure.
///
/// # Errors
/// [`Distrust::Older`], [`Distrust::Far`].
pub fn allowed(
    known: Option<(u64, Digest)>,
    serial: u64,
    digest: Digest,
    step: u64,
) -> Result<(), Distrust> {
    match known {
        Some((last, same)) if serial < last || (serial == last && digest != same) => {
            return Err(Distrust::Older { serial, known: last });
        }
        Some((last, _)) if serial == last => return Ok(()),
        Some(_) | None => {}
    }
    let last = known.map_or(0, |(last, _)| last);
    let most = last.saturating_add(step).min(SERIAL_MAX);
    if serial <= most { Ok(()) } else { Err(Distrust::Far { serial, known: last, most }) }
}

/// Whether a catalog that expires then is too old for anything new. Pure.
pub fn expired(expires_s: Option<i64>, grace_s: u64, now_s: i64) -> bool {
    let grace = i64::try_from(grace_s).unwrap_or(i64::MAX);
    expires_s.is_some_and(|expires_s| now_s > expires_s.saturating_add(grace))
}

/// Seconds since 1970, by this host's clock.
pub(crate) fn now_s() -> i64 {
    now_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_up_and_not_too_far() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let after =
            |last: u64, serial: u64, digest| match allowed(Some((last, a)), serial, digest, 100) {
                Ok(()) => "believed",
                Err(Distrust::Older { .. }) => "older",
                Err(Distrust::Far { .. }) => "far",
                Err(other) => panic!("{other}"),
            };
        for (last, serial, digest, expected) in [
            (8, 8, a, "believed"),
            (8, 8, b, "older"),
            (8, 7, b, "older"),
            (8, 9, b, "believed"),
            (8, 108, b, "believed"),
            (8, 109, b, "far"),
            (SERIAL_MAX - 1, SERIAL_MAX, b, "believed"),
            // What an older program believed may be beyond.
            (u64::MAX / 2, u64::MAX / 2, a, "believed"),
        ] {
            assert_eq!(after(last, serial, digest), expected, "{serial} after {last}");
        }
        assert!(allowed(None, 100, b, 100).is_ok());
        assert!(matches!(
            allowed(None, 101, b, 100),
            Err(Distrust::Far { known: 0, most: 100, .. })
        ));
    }

    #[test]
    fn a_catalog_does_until_its_end_and_a_grace() {
        assert!(!expired(None, 0, i64::MAX));
        for (now, expected) in [(99, false), (110, false), (111, true)] {
            assert_eq!(expired(Some(100), 10, now), expected, "{now}");
        }
        assert!(!expired(Some(100), u64::MAX, i64::MAX - 1), "a grace for ever");
    }
}
