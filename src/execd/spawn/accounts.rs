//! Users and groups, read from `/etc/passwd` and `/etc/group` directly.
//!
//! The binary is static and runs in images of any C library, so the name service switch is out of
//! reach (and could block on the network). Pure, apart from [`Accounts::read`].

use std::path::Path;

/// The most bytes read of either file; what lies beyond is ignored.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The most supplementary groups given to a process; the kernel's own limit is 65,536.
pub const MAX_GROUPS: usize = 1024;

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// The account files of the system at one moment.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<User>,
    /// Group id and member names.
    groups: Vec<(u32, Vec<String>)>,
}

impl Accounts {
    /// Reads the files below `root` (`/` outside of tests). A file that is missing or unreadable
    /// has no entries. Blocks.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let file = |name| super::read_bounded(&root.join(name), MAX_FILE).unwrap_or_default();
        Self::parse(&file("etc/passwd"), &file("etc/group"))
    }

    /// Parses the text of both files; malformed lines are skipped (passwd(5), group(5)).
    #[must_use]
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let users = String::from_utf8_lossy(passwd)
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next().filter(|name| !name.is_empty())?;
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                let home = fields.nth(1)?;
                Some(User {
                    name: name.to_owned(),
                    uid,
                    gid,
                    home: home.to_owned(),
                })
            })
            .collect();
        let groups = String::from_utf8_lossy(group)
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let gid = fields.nth(2)?.parse().ok()?;
                let members = fields.next()?.split(',').map(str::trim);
                Some((gid, members.map(str::to_owned).collect()))
            })
            .collect();
        Self { users, groups }
    }

    /// The first user with this id.
    #[must_use]
    pub fn by_uid(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// The first user with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// Whom a process becomes that is to run as `uid`.
    ///
    /// The group is the one asked for, else the user's primary one, else, for an id without an
    /// account, the group of the same number: never the daemon's own. Supplementary groups are
    /// those that list the user.
    #[must_use]
    pub fn credentials(&self, uid: u32, gid: Option<u32>) -> Credentials {
        let user = self.by_uid(uid);
        let gid = gid.unwrap_or_else(|| user.map_or(uid, |user| user.gid));
        let mut groups: Vec<u32> = user.map_or_else(Vec::new, |user| {
            let listed = self
                .groups
                .iter()
                .filter(|(_, members)| members.contains(&user.name));
            std::iter::once(gid)
                .chain(listed.map(|(gid, _)| *gid))
                .collect()
        });
        groups.sort_unstable();
        groups.dedup();
        groups.truncate(MAX_GROUPS);
        Credentials {
            uid,
            gid,
            groups,
            account: user.cloned(),
        }
    }
}

/// Whom a process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids, ascending.
    pub groups: Vec<u32>,
    /// The user's account, where there is one.
    pub account: Option<User>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        # a comment\nbroken:x:notanumber:1:::\nshort:x:5\n\
        ada:x:1000:1001:Ada,,,:/home/ada:/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:\nada:x:1001:\ndocker:x:998:bob, ada\nbroken:x\naudio:x:29:ada,\n";

    #[test]
    fn a_known_user_brings_its_groups() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        let ada = accounts.credentials(1000, None);
        assert_eq!((ada.uid, ada.gid), (1000, 1001));
        assert_eq!(ada.groups, [29, 998, 1001]);
        assert_eq!(ada.account.as_ref().unwrap().home, "/home/ada");
        assert_eq!(accounts.by_name("ada"), accounts.by_uid(1000));
        assert_eq!(accounts.by_name("broken"), None);
        assert_eq!(accounts.by_uid(5), None);
    }

    #[test]
    fn an_asked_for_group_wins() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.credentials(1000, Some(7)).gid, 7);
        assert_eq!(accounts.credentials(4242, Some(7)).gid, 7);
    }

    #[test]
    fn an_unknown_user_never_gets_the_group_of_root() {
        let stranger = Accounts::default().credentials(4242, None);
        assert_eq!((stranger.uid, stranger.gid), (4242, 4242));
        assert!(stranger.groups.is_empty() && stranger.account.is_none());
    }

    #[test]
    fn missing_files_are_empty() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Accounts::read(root.path()).by_uid(0), None);
    }
}
