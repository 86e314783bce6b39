//! Names of the devices that builds and looks have on a pool, which nobody else can have. Pure.

use registry::VolumeId;

/// That of the volume `id` while it is built.
pub(super) fn work(pool: &str, id: VolumeId) -> String {
    format!("{pool}-work-{id}")
}

/// That of the volume `id` while it is looked at.
pub(super) fn look(pool: &str, id: VolumeId) -> String {
    format!("{pool}-look-{id}")
}

/// Whether `name` is one that a build or a look on this pool gives its device.
pub(super) fn is_kept(pool: &str, name: &str) -> bool {
    let rest = name.strip_prefix(pool).and_then(|rest| rest.strip_prefix('-'));
    let id = rest.and_then(|rest| rest.strip_prefix("work-").or(rest.strip_prefix("look-")));
    id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_work_are_kept_and_no_others() {
        for name in ["veneer-work-7", "veneer-look-0", "veneer-work-16777215"] {
            assert!(is_kept("veneer", name), "{name}");
        }
        for name in
            ["net-work-7", "veneer-work-", "veneer-work-7a", "veneer-work", "veneer", "work-7"]
        {
            assert!(!is_kept("veneer", name), "{name}");
        }
        assert!(is_kept("a-work-1", "a-work-1-look-2"));
    }
}
