//! A program of the tools root behaves like any child: it is the process that was started.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;

use qemu_harness::paths::Paths;
use qemu_harness::tools::Tools;

fn tools() -> (Paths, Tools) {
    let paths = Paths::discover().unwrap();
    let tools = Tools::prepare(&paths).unwrap();
    (paths, tools)
}

#[test]
fn the_exit_status_is_the_programs() {
    let (_, tools) = tools();
    let status = tools.command("sh").args(["-c", "exit 7"]).status().unwrap();
    assert_eq!(status.code(), Some(7));
}

#[test]
fn the_child_is_the_program() {
    let (_, tools) = tools();
    let child = tools
        .command("sh")
        .args(["-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        pid.to_string()
    );
}

#[test]
fn input_and_output_are_direct() {
    let (_, tools) = tools();
    let mut child = tools
        .command("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds, so that nothing in between can swallow it.
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut input = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = thread::spawn(move || input.write_all(&copy).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == sent);
}

#[test]
fn work_folders_are_where_they_are_outside() {
    let (paths, tools) = tools();
    for folder in [&paths.workspace, &paths.out, &paths.cache] {
        let output = tools.command("pwd").current_dir(folder).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            said.trim(),
            folder.canonicalize().unwrap().display().to_string()
        );
    }
}

#[test]
fn versions_are_those_of_trixie() {
    let (_, tools) = tools();
    assert!(
        tools
            .output("mkosi", &["--version"])
            .unwrap()
            .starts_with("mkosi 25.")
    );
    let qemu = tools.output("qemu-system-x86_64", &["--version"]).unwrap();
    assert!(qemu.starts_with("QEMU emulator version 10."), "{qemu}");
}

#[test]
fn a_failure_tells_what_the_program_said() {
    let (_, tools) = tools();
    let error = tools
        .output("mke2fs", &["/nowhere/disk"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("mke2fs") && error.contains("/nowhere/disk"),
        "{error}"
    );
}

#[test]
fn a_program_ends_with_the_thread_that_started_it() {
    let (_, tools) = tools();
    let mut child = thread::spawn(move || {
        let mut child = tools
            .command("sh")
            .args(["-c", "echo started; exec sleep infinity"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has come as far as the program, so the tie is made.
        let mut first = [0; 8];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        assert_eq!(&first, b"started\n");
        child
    })
    .join()
    .unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}
