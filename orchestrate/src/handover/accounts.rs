//! Which user, and which groups, an image wants to run as: `User` of its config, looked up in the image's own
//! `/etc/passwd` and `/etc/group`. The rules are those that container runtimes share (moby/sys/user,
//! `GetExecUser`), but for one: a line whose number is none is left out there too, and not taken for root's.

use crate::handover::unfit::Unfit;

/// What a process can be in (`NGROUPS_MAX`, setgroups(2)).
const GROUPS_MAX: usize = 65_536;

/// Where the users of an image stand.
pub(crate) const PASSWD: &str = "/etc/passwd";

/// Where its groups stand.
pub(crate) const GROUP: &str = "/etc/group";

/// Both tables, as they are in the image; empty where it has none. They are hostile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tables<'t> {
    pub(crate) passwd: &'t [u8],
    pub(crate) group: &'t [u8],
}

/// As whom a program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups, in the order of the table.
    pub(crate) groups: Vec<u32>,
    /// For `HOME`.
    pub(crate) home: String,
}

/// A line of `/etc/passwd`.
struct User<'t> {
    name: &'t [u8],
    uid: u32,
    gid: u32,
    home: &'t [u8],
}

/// A line of `/etc/group`.
struct Group<'t> {
    name: &'t [u8],
    gid: u32,
    members: &'t [u8],
}

/// The lines that say something, in their order.
fn lines(table: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = table.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    // What follows the sixth field of a line says nothing here.
    lines.map(|line| line.splitn(7, |byte| *byte == b':').collect())
}

/// The number of a line. The last of 32 bits stands for "none" in system calls.
fn number(field: Option<&&[u8]>) -> Option<u32> {
    let text = std::str::from_utf8(field?).ok()?;
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn users(table: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(table).filter_map(|fields| {
        let (name, uid, gid) = (*fields.first()?, number(fields.get(2))?, number(fields.get(3))?);
        Some(User { name, uid, gid, home: fields.get(5).copied().unwrap_or_default() })
    })
}

fn groups(table: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(table).filter_map(|fields| {
        let (name, gid) = (*fields.first()?, number(fields.get(2))?);
        Some(Group { name, gid, members: fields.get(3).copied().unwrap_or_default() })
    })
}

/// A number that was asked for, if that is one; then it is never a name, also where a line has such a name.
fn asked(what: &'static str, text: &str) -> Result<Option<u32>, Unfit> {
    let Ok(number) = text.parse::<i64>() else { return Ok(None) };
    let fits = i32::try_from(number).ok().and_then(|number| u32::try_from(number).ok());
    fits.map(Some).ok_or(Unfit::Number { what, number })
}

fn home(user: &User<'_>) -> String {
    let text = std::str::from_utf8(user.home).ok();
    text.filter(|home| !home.is_empty() && !home.contains('\0')).unwrap_or("/").to_owned()
}

/// Who `user` is: nobody named, `name`, `uid`, or one of them with `:group` or `:gid`.
///
/// A number needs no line; without one its group is 0. Further groups count only where no group is named.
///
/// # Errors
/// [`Unfit::Nobody`], [`Unfit::Number`], [`Unfit::Groups`].
pub(crate) fn identity(user: &str, tables: Tables<'_>) -> Result<Identity, Unfit> {
    let mut parts = user.split(':');
    let (name, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let nobody = |what, name: &str, table| Unfit::Nobody {
        what,
        name: name.to_owned(),
        asked: user.to_owned(),
        table,
    };
    let uid = match name {
        "" => Some(0),
        name => asked("user", name)?,
    };
    let found = users(tables.passwd).find(|line| match uid {
        Some(uid) => line.uid == uid,
        None => line.name == name.as_bytes(),
    });
    let mut identity = match (&found, uid) {
        (Some(line), _) => {
            Identity { uid: line.uid, gid: line.gid, groups: Vec::new(), home: home(line) }
        }
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        // Root is root, also in an image of one program.
        (None, None) if name == "root" && tables.passwd.is_empty() => {
            Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() }
        }
        (None, None) => return Err(nobody("user", name, PASSWD)),
    };
    if !group.is_empty() {
        let gid = asked("group", group)?;
        let named = || groups(tables.group).find(|line| line.name == group.as_bytes());
        identity.gid = match gid {
            Some(gid) => gid,
            None => named().ok_or_else(|| nobody("group", group, GROUP))?.gid,
        };
    } else if let Some(line) = found {
        let member =
            |of: &Group<'_>| of.members.split(|byte| *byte == b',').any(|m| m == line.name);
        identity.groups = groups(tables.group).filter(member).map(|group| group.gid).collect();
        if identity.groups.len() > GROUPS_MAX {
            let (name, groups) = (String::from_utf8_lossy(line.name).into(), identity.groups.len());
            return Err(Unfit::Groups { name, groups });
        }
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"# who is here\n\
        root:x:0:0:root:/root:/bin/sh\n\
        app:x:1000:1001:App:/home/app:/bin/sh\r\n\
        1000:x:7:7:a number for a name:/seven:\n\
        bare:x:8:8\n\
        broken:x:zero:0::/broken:\n\
        short:x\n\
        \n\
        :x:9:9::/nameless:\n\
        +nis\n\
        odd:x:10:10::/\xff:\n\
        far:x:4294967295:0::/far:\n\
        high:x:4294967294:4294967294::/high:\n\
        app:x:2000:2000::/second:\n";

    const GROUP: &[u8] = b"root:x:0:\n\
        app:x:1001:app\n\
        wheel:x:10:root,app\n\
        audio:x:29:application,notapp\n\
        video:x:44:bare,app\n\
        77:x:5:\n\
        broken:x:many:app\n\
        short\n";

    const ROWS: Tables<'_> = Tables { passwd: PASSWD, group: GROUP };

    fn as_text(user: &str, tables: Tables<'_>) -> String {
        match identity(user, tables) {
            Ok(Identity { uid, gid, groups, home }) => format!("{uid}:{gid} {groups:?} {home}"),
            Err(unfit) => unfit.to_string(),
        }
    }

    #[test]
    fn every_form_of_user_is_who_the_tables_say() {
        for (user, expected) in [
            ("", "0:0 [10] /root"),
            ("root", "0:0 [10] /root"),
            ("0", "0:0 [10] /root"),
            ("app", "1000:1001 [1001, 10, 44] /home/app"),
            ("1000", "1000:1001 [1001, 10, 44] /home/app"),
            ("+1000", "1000:1001 [1001, 10, 44] /home/app"),
            ("01000", "1000:1001 [1001, 10, 44] /home/app"),
            ("app:", "1000:1001 [1001, 10, 44] /home/app"),
            ("app:wheel", "1000:10 [] /home/app"),
            ("app:10", "1000:10 [] /home/app"),
            ("1000:wheel", "1000:10 [] /home/app"),
            ("app:4711", "1000:4711 [] /home/app"),
            (":wheel", "0:10 [] /root"),
            (":4711", "0:4711 [] /root"),
            // A number has no need of a line.
            ("4711", "4711:0 [] /"),
            ("4711:4712", "4711:4712 [] /"),
            ("4711:wheel", "4711:10 [] /"),
            ("2147483647", "2147483647:0 [] /"),
            // It is never a name.
            ("7", "7:7 [] /seven"),
            ("app:77", "1000:77 [] /home/app"),
            // What is missing of a line is empty.
            ("bare", "8:8 [44] /"),
            ("odd", "10:10 [] /"),
            ("high", "4294967294:4294967294 [] /high"),
            ("app:wheel:more", "1000:10 [] /home/app"),
        ] {
            assert_eq!(as_text(user, ROWS), expected, "{user:?}");
        }
    }

    #[test]
    fn who_is_not_there_is_named() {
        let none = |user: &str, what: &str, table: &str| {
            format!("the image wants to run as {user:?}, and its {table} has no {what}")
        };
        for (user, what, table) in [
            ("nobody", "user \"nobody\"", "/etc/passwd"),
            ("App", "user \"App\"", "/etc/passwd"),
            ("broken", "user \"broken\"", "/etc/passwd"),
            ("short", "user \"short\"", "/etc/passwd"),
            ("far", "user \"far\"", "/etc/passwd"),
            (" app", "user \" app\"", "/etc/passwd"),
            ("99999999999999999999", "user \"99999999999999999999\"", "/etc/passwd"),
            ("app:audience", "group \"audience\"", "/etc/group"),
            ("app:broken", "group \"broken\"", "/etc/group"),
            ("4711:short", "group \"short\"", "/etc/group"),
        ] {
            assert_eq!(as_text(user, ROWS), none(user, what, table), "{user:?}");
        }
        let bound = "numbers of users and groups are 0 to 2147483647";
        assert_eq!(as_text("-1", ROWS), format!("user -1: {bound}"));
        assert_eq!(as_text("4294967295", ROWS), format!("user 4294967295: {bound}"));
        assert_eq!(as_text("2147483648", ROWS), format!("user 2147483648: {bound}"));
        assert_eq!(as_text("app:-1", ROWS), format!("group -1: {bound}"));
    }

    #[test]
    fn an_image_without_tables_has_numbers_and_root() {
        for (user, expected) in [
            ("", "0:0 [] /"),
            ("root", "0:0 [] /"),
            ("0", "0:0 [] /"),
            ("1000", "1000:0 [] /"),
            ("1000:1000", "1000:1000 [] /"),
            ("root:5", "0:5 [] /"),
        ] {
            assert_eq!(as_text(user, Tables::default()), expected, "{user:?}");
        }
        assert!(identity("app", Tables::default()).is_err());
        assert!(identity("root:root", Tables::default()).is_err());
        // With a table, the table says who root is.
        let other = Tables { passwd: b"toor:x:0:0::/toor:\n", group: b"" };
        assert!(identity("root", other).is_err());
        assert_eq!(as_text("", other), "0:0 [] /toor");
    }

    #[test]
    fn a_user_of_more_groups_than_a_process_can_be_in_is_refused() {
        let table = |lines: usize| "g:x:7:app\n".repeat(lines).into_bytes();
        let (fits, much) = (table(GROUPS_MAX), table(GROUPS_MAX + 1));
        let is = |group: &[u8]| {
            identity("app", Tables { passwd: PASSWD, group }).map(|i| i.groups.len())
        };
        assert_eq!(is(&fits), Ok(GROUPS_MAX));
        assert_eq!(is(&much), Err(Unfit::Groups { name: "app".into(), groups: GROUPS_MAX + 1 }));
    }

    #[test]
    fn no_bytes_of_a_table_are_a_panic() {
        let mut dice = ::tests::dice::Dice::new(21);
        let words: &[&[u8]] =
            &[b":", b"\n", b"app", b"0", b"1000", b"-1", b"\xff", b"\0", b",", b"#", b"4294967295"];
        for _ in 0..20_000 {
            let mut table = || -> Vec<u8> {
                (0..dice.roll(24)).flat_map(|_| dice.of(words).to_vec()).collect()
            };
            let (passwd, group) = (table(), table());
            for user in ["", "app", "app:app", "1000"] {
                let found = identity(user, Tables { passwd: &passwd, group: &group });
                assert!(
                    found.is_ok_and(|who| who.uid != u32::MAX && who.gid != u32::MAX)
                        || user != "1000"
                );
            }
        }
    }
}
