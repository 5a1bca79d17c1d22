//! Environment files: by whose rights they are opened, what is refused, and what their lines become.

use super::*;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

fn parsed(text: &str) -> Vec<String> {
    let mut variables = Vec::with_capacity(FILE_MAX + 1);
    parse(text.as_bytes(), &mut variables);
    let lines = variables.split_inclusive(|byte| *byte == 0);
    let text = |line| CStr::from_bytes_with_nul(line).unwrap().to_str().unwrap();
    lines.map(|line| text(line).to_owned()).collect()
}

#[test]
fn lines_are_taken_as_systemd_takes_them() {
    let text = "# c\nA=1\n B = \"two words\" \n;x=y\nnonsense\nC='q'\r\nD=\n=e\nE=\"un\nF=a=b\n\nG=\0\nH=\"\nI=last";
    let expected = [
        "A=1",
        "B=two words",
        "C=q",
        "D=",
        "E=\"un",
        "F=a=b",
        "H=\"",
        "I=last",
    ];
    assert_eq!(parsed(text), expected);
    let longest = "A=".repeat(FILE_MAX / 2);
    assert_eq!(parsed(&longest), [longest]);
    let most = "A=\n".repeat(FILE_MAX / 3);
    assert_eq!(parsed(&most).len(), FILE_MAX / 3);
}

#[test]
fn names_are_compared_up_to_the_sign() {
    assert!(same_name(c"A=1", c"A=2=3"));
    assert!(!same_name(c"A=1", c"AB=1"));
    assert!(!same_name(c"AB=1", c"A=1"));
}

/// A folder of root's that nobody else may write to, as `/tmp` is not.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!(
            "/run/init-environment-{name}-{}",
            std::process::id()
        ));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn file(path: &Path) -> EnvironmentFile {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    EnvironmentFile::new(path, false)
}

/// What root's way to a file comes to: its variables, `None` if it is left to the service.
fn by_root(path: &Path) -> std::result::Result<Option<Vec<String>>, Unread> {
    let mut file = file(path);
    file.read_as_root(&mut buffer())?;
    let variables = file.variables().map(|v| v.to_str().unwrap().to_owned());
    let variables = variables.collect();
    Ok((!file.waits).then_some(variables))
}

#[test]
fn root_goes_where_only_root_has_a_say() {
    let folder = Folder::new("own");
    let secret = folder.file("secret", "A=1\nB=2\n");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let read = Ok(Some(vec!["B=2".to_owned(), "A=1".to_owned()]));
    assert_eq!(by_root(&secret), read);
    // The second is as `/etc/astromesh` on the appliance: a link to a folder.
    std::fs::create_dir(folder.0.join("deep")).unwrap();
    symlink("../secret", folder.0.join("deep/link")).unwrap();
    symlink(folder.0.join("deep"), folder.0.join("config")).unwrap();
    for way in ["deep/link", "config/link", "deep//.././config/../secret"] {
        assert_eq!(by_root(&folder.0.join(way)), read, "{way}");
    }
}

#[test]
fn root_goes_nowhere_by_the_word_of_others() {
    let folder = Folder::new("theirs");
    let secret = folder.file("secret", "A=1\n");
    for (name, owner, mode) in [("owned", 54321, 0o755), ("open", 0, 0o1777)] {
        let theirs = folder.0.join(name);
        std::fs::create_dir(&theirs).unwrap();
        symlink(&secret, theirs.join("link")).unwrap();
        std::fs::hard_link(&secret, theirs.join("hard")).unwrap();
        symlink(&theirs, folder.0.join(format!("to-{name}"))).unwrap();
        chown(&theirs, Some(owner), None).unwrap();
        std::fs::set_permissions(&theirs, Permissions::from_mode(mode)).unwrap();
        for file in ["link", "hard", "missing", "../secret"] {
            assert_eq!(by_root(&theirs.join(file)), Ok(None), "{name} {file}");
            let way = folder.0.join(format!("to-{name}")).join(file);
            assert_eq!(by_root(&way), Ok(None), "{name} {file}");
        }
    }
}

#[test]
fn nothing_but_a_bounded_regular_file_is_read() {
    let folder = Folder::new("kinds");
    let error = |errno| Err(Unread::Error(errno));
    let at = |name: &str| folder.0.join(name);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(CWD, at("fifo"), fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    symlink("loop", at("loop")).unwrap();
    folder.file("file", "A=1\n");
    folder.file("longest", &"#".repeat(FILE_MAX));
    folder.file("long", &"#".repeat(FILE_MAX + 1));
    assert_eq!(by_root(&at("fifo")), Err(Unread::NotRegular));
    assert_eq!(by_root(&folder.0), Err(Unread::NotRegular));
    assert_eq!(by_root(Path::new("/")), Err(Unread::NotRegular));
    assert_eq!(by_root(Path::new("/dev/null")), Err(Unread::NotRegular));
    assert_eq!(by_root(&at("loop")), error(Errno::LOOP));
    assert_eq!(by_root(&at("missing")), error(Errno::NOENT));
    assert_eq!(by_root(&at("file/")), error(Errno::NOTDIR));
    assert_eq!(by_root(&at("longest")), Ok(Some(Vec::new())));
    assert_eq!(by_root(&at("long")), error(Errno::FBIG));
    let long = Path::new("/x").join("y".repeat(PATH_MAX));
    assert_eq!(by_root(&long), error(Errno::NAMETOOLONG));
}
