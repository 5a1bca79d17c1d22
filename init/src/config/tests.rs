use super::*;
use std::path::PathBuf;

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("init-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("init.toml.d")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.0.join(name), text).unwrap();
        self
    }

    fn load(&self) -> Result<Config, String> {
        load(&self.0.join("init.toml"))
            .map_err(|e| e.to_string().replace(self.0.to_str().unwrap(), ""))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SERVICE: &str = "[service.a]\nexec = ['/bin/a']\n";

#[test]
fn drop_ins_are_laid_over_in_order() {
    let folder = Folder::new("drop-ins");
    folder
        .write("init.toml", SERVICE)
        .write(
            "init.toml.d/20.toml",
            "[service.a]\numask = '0077'\n[service.b]\nexec = ['/bin/b']\nafter = ['a']",
        )
        .write(
            "init.toml.d/10.toml",
            "[service.a]\numask = '0007'\n[system]\nhostname = 'h'",
        )
        .write("init.toml.d/README", "not toml");
    let config = folder.load().unwrap();
    assert_eq!(config.services.len(), 2);
    assert_eq!(config.services[0].umask, 0o077);
    assert_eq!(config.system.hostname.as_deref(), Some("h"));
}

#[test]
fn errors_name_file_line_and_column() {
    for (name, text, expected) in [
        (
            "unknown",
            "[service.a]\nexec = ['/bin/a']\nrestrat = 'always'",
            "/init.toml:3:1: service.a.restrat: unknown key; did you mean `restart`?",
        ),
        ("syntax", "[service.a\n", "/init.toml:1:"),
        (
            "value",
            "[service.a]\nexec = ['/bin/a']\nstart-timeout = '5'",
            "/init.toml:3:17: service.a.start-timeout: `5` is not a duration",
        ),
        (
            "spec",
            "\n[service.a]\nexec = ['a']",
            "/init.toml:3:8: service.a.exec:",
        ),
        (
            "order",
            "[service.a]\nexec = ['/a']\nafter = ['b']",
            "/init.toml:3:9: service.a.after:",
        ),
        (
            "taken",
            "[service.netcfg]\nexec = ['/a']",
            "service.netcfg: the name is taken",
        ),
        (
            "network",
            "[[network.link]]\nmatch = { name = 'e*' }\naddress = ['10.0.0.300/8']",
            "/init.toml:",
        ),
        (
            "vlan",
            "[[network.link]]\ndhcp4 = true\n[[network.vlan]]\nname = 'a'\nlink = 'a'\nid = 7",
            "network.vlan[0]: a cannot carry itself",
        ),
        ("folder", "[[directory]]\npath = '/etc/x'", "directory path"),
    ] {
        let folder = Folder::new(name);
        let error = folder.write("init.toml", text).load().unwrap_err();
        assert!(error.contains(expected), "{text}\n{error}");
    }
    let folder = Folder::new("many");
    folder.write(
        "init.toml",
        "[service.a]\nexec = ['a']\nnice = 99\n[service.b]\nexec = ['/b']\n",
    );
    folder.write("init.toml.d/1.toml", "[service.b]\numask = 'x'");
    let all = folder.load().unwrap_err();
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 3, "every error: {all}");
    assert!(
        lines[1].starts_with("/init.toml:3:8: service.a.nice: 99"),
        "{all}"
    );
    assert!(
        lines[2].starts_with("/init.toml.d/1.toml:2:9: service.b.umask"),
        "{all}"
    );
    assert!(
        Folder::new("missing")
            .load()
            .unwrap_err()
            .contains("/init.toml:1:1: cannot be read: No such file")
    );
}

/// Key by key, as the head of the module says: what a drop-in does not name stays.
#[test]
fn a_drop_in_changes_one_key_of_the_network() {
    let folder = Folder::new("network-drop-in");
    folder
        .write(
            "init.toml",
            "[network]\nntp = ['192.0.2.1']\n[[network.link]]\ndhcp4 = false\n[[network.vlan]]\nname = 'v'\nlink = 'eth0'\nid = 7",
        )
        .write("init.toml.d/10.toml", "[network]\nntp = ['192.0.2.2']");
    let network = folder.load().unwrap().network;
    assert!(!network.link[0].dhcp4);
    assert_eq!(network.vlan.len(), 1);
    let ntp: Vec<String> = network.ntp.iter().map(ToString::to_string).collect();
    assert_eq!(ntp, ["192.0.2.2"]);
    folder.write("init.toml.d/20.toml", "[network]\nlink = []");
    let network = folder.load().unwrap().network;
    assert_eq!((network.link.len(), network.ntp.len()), (0, 1));
}
