//! Users and groups by name, from `/etc/passwd` and `/etc/group` (passwd(5), group(5)).
//!
//! The image holds plain files and no other name service, so the files are read as they are.

use crate::spec::Spec;
use std::io;
use std::path::Path;

/// Whom a service runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Login name, if it has one.
    pub name: Option<String>,
    /// Home directory.
    pub home: String,
}

/// The two files, as text.
#[derive(Clone, Debug, Default)]
pub struct Users {
    passwd: String,
    group: String,
}

impl Users {
    /// Reads the files below `root`. A file that is missing is empty.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let read = |name: &str| {
            let path = root.join(name);
            match std::fs::read_to_string(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                other => {
                    other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
                }
            }
        };
        Ok(Self {
            passwd: read("etc/passwd")?,
            group: read("etc/group")?,
        })
    }

    /// Whom `spec` runs as.
    ///
    /// # Errors
    /// Names the user or group that is neither a number nor in the files.
    pub fn identity(&self, spec: &Spec) -> Result<Identity, String> {
        let user = spec.user.as_deref().unwrap_or("0");
        let entry = self.entry(user);
        let uid = match (&entry, user.parse::<u32>()) {
            (Some(entry), _) => entry.0,
            (None, Ok(uid)) => uid,
            (None, Err(_)) => {
                return Err(format!(
                    "user = {user:?} is not in /etc/passwd; add it to the image or give a number"
                ));
            }
        };
        let gid = match &spec.group {
            Some(group) => self.group(group)?,
            None => entry.as_ref().map_or(uid, |e| e.1),
        };
        Ok(Identity {
            uid,
            gid,
            groups: spec
                .groups
                .iter()
                .map(|g| self.group(g))
                .collect::<Result<_, _>>()?,
            home: entry
                .as_ref()
                .map_or_else(|| "/".to_owned(), |e| e.3.clone()),
            name: entry.map(|e| e.2),
        })
    }

    /// Uid, gid, name and home of a user by name or number.
    fn entry(&self, user: &str) -> Option<(u32, u32, String, String)> {
        self.passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
                return None;
            };
            (*name == user || *uid == user).then(|| {
                Some((
                    uid.parse().ok()?,
                    gid.parse().ok()?,
                    (*name).to_owned(),
                    (*home).to_owned(),
                ))
            })?
        })
    }

    /// The id of a group by name or number.
    ///
    /// # Errors
    /// Names the group.
    pub fn group(&self, group: &str) -> Result<u32, String> {
        let named = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
        });
        named.or_else(|| group.parse().ok()).ok_or_else(|| {
            format!("group {group:?} is not in /etc/group; add it to the image or give a number")
        })
    }

    /// The id of a user by name or number.
    ///
    /// # Errors
    /// Names the user.
    pub fn user(&self, user: &str) -> Result<u32, String> {
        self.entry(user)
            .map(|e| e.0)
            .or_else(|| user.parse().ok())
            .ok_or_else(|| {
                format!("user {user:?} is not in /etc/passwd; add it to the image or give a number")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let users = Users {
            passwd: "root:x:0:0::/root:/x\nastromesh:x:800:801:a:/var/lib/astromesh:/x\nbad\n"
                .into(),
            group: "root:x:0:\ntty:x:5:\n".into(),
        };
        let spec = |text: &str| {
            Spec::from_config(
                "s",
                toml::from_str(&format!("exec = ['/a']\n{text}")).unwrap(),
            )
            .unwrap()
        };
        let identity = users
            .identity(&spec("user = 'astromesh'\ngroups = ['tty', '7']"))
            .unwrap();
        assert_eq!(
            (identity.uid, identity.gid, identity.groups),
            (800, 801, vec![5, 7])
        );
        assert_eq!(identity.home, "/var/lib/astromesh");
        assert_eq!(users.identity(&spec("user = '900'")).unwrap().gid, 900);
        assert_eq!(users.identity(&spec("")).unwrap().uid, 0);
        assert!(
            users
                .identity(&spec("user = 'nobody'"))
                .unwrap_err()
                .contains("nobody")
        );
        assert!(
            users
                .identity(&spec("group = 'nogroup'"))
                .unwrap_err()
                .contains("nogroup")
        );
    }
}
