//! A `/var` that a stranger wrote to while the machine was off: the machine is healthy, each thing that
//! was in the way is told, and nothing outside of it changes its owner.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image};
use qemu_harness::bundle::Run;
use qemu_harness::event::Event;
use qemu_harness::gpt;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::VmConfig;

/// The folders before the first boot: a link that leads to the folder of somebody else, a link out of `/var`,
/// a FIFO, a device, and a file of a gigabyte (a hole).
const FOLDERS: &str = "\
mkdir victim
set_inode_field victim mode 040700
mkdir lib
set_inode_field lib uid 800
symlink lib/astromesh ../victim
symlink lib/astromesh-init /dev
cd /lib
mknod netcfg p
cd /
mkdir log
write /dev/null log/astromesh
set_inode_field log/astromesh size 0x40000000
cd /log
mknod astromesh-init c 1 5
";

/// What the first boot has to tell, by path: what was seen.
const TOLD_OF_FOLDERS: [(&str, &str); 6] = [
    ("/var/lib", "owner 800:0 mode 0755"),
    ("/var/lib/astromesh", "a symbolic link"),
    ("/var/lib/astromesh-init", "a symbolic link"),
    ("/var/lib/netcfg", "a FIFO"),
    ("/var/log/astromesh-init", "a device"),
    ("/var/log/astromesh", "a file"),
];

/// The files before the second boot. The card has the address that QEMU gives to the first one.
const FILES: &str = "\
cd /lib/astromesh-init
rm machine-id
mknod machine-id p
rm machine-id.spare
mknod machine-id.spare c 1 5
rm reboots
write /dev/null reboots
set_inode_field reboots mode 0100644
set_inode_field reboots size 0x40000000
rm reboots.spare
mkdir reboots.spare
rm slots.json
mknod slots.json p
cd /lib/netcfg
rm lease-525400123456
mknod lease-525400123456 p
mknod .lease-525400123456.new p
cd /log/astromesh-init
rm init.log
mknod init.log p
rm boot-id
mknod boot-id p
rm exits.jsonl
symlink exits.jsonl ../../victim/exits
";

/// What the second boot has to tell: what of, and a part of what was seen.
const TOLD_OF_FILES: [(&str, &str); 4] = [
    ("machine-id", "machine-id: a FIFO is there"),
    ("state", "machine-id: a FIFO is there"),
    (
        "state",
        "reboots: 1073741824 bytes, at most 4096 belong there",
    ),
    ("state", "slots.json: a FIFO is there"),
];

/// The file system itself before the third boot. Its superblock asks for a panic at each error, and for an hour at each
/// synchronous write, which the folder of init's own files asks for; a file's inode is gone, which is an error; and not
/// even root may change what is in two folders (kernel: `Documentation/filesystems/ext4/inodes.rst`,
/// `i_flags`: extents, immutable, append only, and synchronous for files and folders).
const FILE_SYSTEM: &str = "\
set_super_value errors 3
set_super_value mount_opts min_batch_time=3600000000,max_batch_time=3600000000
clri lib/netcfg/lease-525400123456
set_inode_field lib/astromesh flags 0x80010
set_inode_field lib/astromesh-init flags 0x90038
";

#[test]
fn a_hostile_var_makes_no_machine_ill() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "hostile-var", &image.raw, |run| {
        debugfs(run, FOLDERS)?;
        let events = healthy(run)?;
        for (path, seen) in TOLD_OF_FOLDERS {
            let fields = [("what", "directory"), ("path", path), ("seen", seen)];
            let told = events.iter().any(|e| e.is("boot.warning", &fields));
            ensure!(told, "{path} ({seen}) is not told");
        }
        // The service has its folder, root has init's own, and who was pointed at has nothing new.
        let owners = [
            ("lib", "0"),
            ("lib/astromesh", "800"),
            ("lib/astromesh-init/machine-id", "0"),
        ];
        for (path, owner) in owners {
            ensure!(stat(run, path, "User:")? == owner, "the owner of {path}");
        }
        the_victim_is_untouched(run)?;

        debugfs(run, FILES)?;
        let events = healthy(run)?;
        for (what, part) in TOLD_OF_FILES {
            let told = events.iter().any(|event| {
                let seen = event.get("seen").unwrap_or_default();
                event.is("boot.warning", &[("what", what)]) && seen.contains(part)
            });
            ensure!(told, "{what}: {part} is not told");
        }
        // Each role has its files again.
        for file in [
            "lib/astromesh-init/machine-id",
            "lib/astromesh-init/machine-id.spare",
            "lib/astromesh-init/reboots.spare",
            "lib/netcfg/lease-525400123456",
            "log/astromesh-init/init.log",
            "log/astromesh-init/boot-id",
            "log/astromesh-init/exits.jsonl",
        ] {
            let kind = stat(run, file, "Type:")?;
            ensure!(kind == "regular", "{file} is of the type {kind}");
        }
        let id = output(run, "cat lib/astromesh-init/machine-id")?;
        ensure!(id.trim().len() == 32, "the machine id is {id:?}");
        the_victim_is_untouched(run)?;

        debugfs(run, FILE_SYSTEM)?;
        let events = healthy(run)?;
        for path in ["/var/lib/astromesh", "/var/lib/astromesh-init"] {
            let seen = "the attribute immutable or append only";
            let fields = [("what", "directory"), ("path", path), ("seen", seen)];
            let told = events.iter().any(|e| e.is("boot.warning", &fields));
            ensure!(told, "{path} ({seen}) is not told");
        }
        Ok(())
    })
}

/// The folder that links led to is root's, closed, and empty.
fn the_victim_is_untouched(run: &Run) -> Result<()> {
    let owner = stat(run, "victim", "User:")?;
    let mode = stat(run, "victim", "Mode:")?;
    ensure!(
        owner == "0" && mode == "0700",
        "the victim is {owner}'s, mode {mode}"
    );
    // debugfs(8): a line for each name, which starts with a slash.
    let listed = output(run, "ls -p victim")?;
    let names = listed.lines().filter(|line| line.starts_with('/')).count();
    ensure!(names == 2, "not only `.` and `..` are in it: {listed}");
    Ok(())
}

/// Boots until the machine is healthy and the network is there, and switches it off; gives the events.
fn healthy(run: &mut Run) -> Result<Vec<Event>> {
    let mut vm = run.boot(&VmConfig::default())?;
    vm.wait(0, "boot.healthy", &[], BOOT)?;
    // The lease was asked for, and is written.
    vm.wait(0, "net.address", &[("link", "eth0")], BOOT)?;
    let events = vm.serial().events(0);
    vm.power_down(POWER_OFF)?;
    let bad = events
        .iter()
        .find(|event| ["boot.degraded", "init.crash", "service.restart"].contains(&&*event.name));
    ensure!(bad.is_none(), "{bad:?}");
    Ok(events)
}

/// A field of a file on `/var`, as debugfs tells it.
fn stat(run: &Run, path: &str, field: &str) -> Result<String> {
    let said = output(run, &format!("stat {path}"))?;
    let mut words = said.split_whitespace().skip_while(|word| *word != field);
    let value = words.nth(1);
    let value = value.with_context(|| format!("no {field} of {path} in: {said}"))?;
    Ok(value.to_owned())
}

/// Where `/var` is on the disk, as debugfs wants it.
fn var(run: &Run) -> Result<String> {
    let partitions = gpt::partitions(&run.host().tools, &run.disk())?;
    let var = gpt::only(&partitions, "/var", |p| p.name == "var")?;
    Ok(format!("{}?offset={}", run.disk().display(), var.start))
}

fn output(run: &Run, command: &str) -> Result<String> {
    run.host()
        .tools
        .output("debugfs", &["-R", command, &var(run)?])
}

/// Carries out commands of debugfs on the `/var` of a machine that is off.
fn debugfs(run: &Run, commands: &str) -> Result<()> {
    let script = run.disk().with_extension("debugfs");
    std::fs::write(&script, commands).context("cannot write the commands")?;
    let script = script.display().to_string();
    let mut command = run.host().tools.command("debugfs");
    let said = qemu_harness::tools::run(command.args(["-w", "-f", &script, &var(run)?]))?;
    // It ends with 0 whatever it has failed to do, and prefixes what it echoes with its name.
    let failed = said.lines().find(|line| line.contains("File not found"));
    ensure!(failed.is_none(), "debugfs: {said}");
    Ok(())
}
