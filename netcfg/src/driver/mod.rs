//! The driver: kernel events in, system calls out. Every decision is the core's.
//!
//! One loop on one thread: wait for something, give it to the [`Core`], carry out what that says,
//! and bring it the answers before anything else.

mod clock;
mod files;
mod ndisc;
mod netlink;
mod ntp;
mod ports;
mod socket;
mod udp6;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::task::{Context, Poll};

use self::clock::Timer;
use self::ndisc::Ndisc;
use self::netlink::Netlink;
use self::ntp::{Datagram, Ntp};
use self::ports::{Packet, Ports};
use crate::control::protocol::Reply;
use crate::control::server::{Request, Server};
use crate::core::{Command, Core, Doing, Failure, Input, Start};
use crate::rtnl::Change;
use crate::sandbox::{self, Sandbox};
use crate::{Error, Options, Outlet, fair, store};

/// Runs until something that cannot be helped from here happens.
pub fn run(options: Options, outlet: &mut dyn Outlet) -> Result<Infallible, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let control = Server::bind(&options.runtime_dir.join("control"));
        // From here on no socket of this kind can be made, and much else.
        let sandbox = sandbox::enter(&options.state_dir, &options.runtime_dir);
        let gaps = [
            sandbox.gap().map(|gap| ("sandbox", gap)),
            control.as_ref().err().map(|e| ("control", e.to_string())),
        ];
        let mut driver = Driver {
            control: control.ok(),
            _sandbox: sandbox,
            netlink: Netlink::open().map_err(Error::Netlink)?,
            ndisc: Ndisc::open().map_err(Error::Netlink)?,
            timer: Timer::new().map_err(Error::Timer)?,
            ntp: Ntp::default(),
            ports: Ports::default(),
            options,
            outlet,
        };
        driver.run(gaps.into_iter().flatten()).await
    })
}

/// Differs from machine to machine and from start to start; see [`crate::rng::Rng`] for why that
/// is enough.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library seeds its hash maps from the kernel.
    RandomState::new().hash_one(clock::now())
}

struct Driver<'a> {
    options: Options,
    netlink: Netlink,
    ndisc: Ndisc,
    ntp: Ntp,
    timer: Timer,
    ports: Ports,
    outlet: &'a mut dyn Outlet,
    /// Nobody can ask when this could not be made.
    control: Option<Server>,
    _sandbox: Sandbox,
}

/// What woke the driver.
enum Woken {
    Timer,
    Change(Change),
    NetlinkClosed,
    Packet(u32, io::Result<Packet>),
    Options(Vec<u8>),
    Time(Datagram),
    Broken(io::Error),
    Request(Request),
    Warning(String),
}

impl Driver<'_> {
    async fn run(
        &mut self,
        gaps: impl Iterator<Item = (&'static str, String)>,
    ) -> Result<Infallible, Error> {
        let config = std::mem::take(&mut self.options.config);
        let start = Start {
            now: clock::now(),
            built: clock::built(),
            seed: rand_seed(),
            time_seed: rand_seed(),
            resolv_conf: self.resolv_conf().display().to_string(),
        };
        let (mut core, first) = Core::new(config, start);
        for (what, why) in gaps {
            let commands = core.step(clock::now(), Input::Gap(what, why));
            self.carry_out(&mut core, commands).await;
        }
        self.carry_out(&mut core, first).await;
        loop {
            let dues = [core.deadline(), self.outlet.alive(clock::now())];
            let due = dues.into_iter().flatten().min();
            self.timer.set(due).map_err(Error::Timer)?;
            let woken = poll_fn(|cx| self.poll(cx)).await.map_err(Error::Timer)?;
            for woken in woken {
                let input = match &woken {
                    Woken::Timer => Input::Timer,
                    Woken::NetlinkClosed => return Err(Error::NetlinkClosed),
                    Woken::Change(Change::Nothing) => continue,
                    Woken::Change(Change::Look | Change::Router) => Input::Changed,
                    Woken::Change(Change::RouteGone { ours }) => Input::RouteGone { ours: *ours },
                    Woken::Packet(link, Ok(Packet::Dhcp4(payload))) => Input::Dhcp4 {
                        link: *link,
                        payload,
                    },
                    Woken::Packet(link, Ok(Packet::Arp(payload))) => Input::Arp {
                        link: *link,
                        payload,
                    },
                    Woken::Packet(link, Ok(Packet::Dhcp6(payload))) => Input::Dhcp6 {
                        link: *link,
                        payload,
                    },
                    Woken::Packet(link, Err(error)) => failed(Doing::Receiving, Some(*link), error),
                    Woken::Options(datagram) => Input::RouterOptions(datagram),
                    Woken::Time(datagram) => Input::Ntp {
                        from: datagram.from,
                        bytes: &datagram.bytes,
                        at: datagram.now,
                        wall: datagram.wall,
                    },
                    Woken::Warning(text) => Input::Gap("control", text.clone()),
                    Woken::Broken(error) => failed(Doing::Receiving, None, error),
                    Woken::Request(request) => {
                        let (answer, commands) = core.ask(clock::now(), &request.verb);
                        self.answer(request, answer);
                        self.carry_out(&mut core, commands).await;
                        continue;
                    }
                };
                let commands = core.step(clock::now(), input);
                self.carry_out(&mut core, commands).await;
            }
        }
    }

    fn resolv_conf(&self) -> PathBuf {
        self.options.runtime_dir.join("resolv.conf")
    }

    fn answer(&mut self, request: &Request, answer: Result<Reply, String>) {
        let Some(control) = &mut self.control else {
            return;
        };
        match answer {
            Ok(reply) => control.reply(&request.client, &reply, clock::now()),
            Err(why) => control.refuse(&request.client, &why, clock::now()),
        }
    }

    /// What has happened, once something has. Of no source is more taken at a time than is
    /// [fair](crate::fair), and the timer comes first: no flood keeps a deadline from its turn.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<Woken>>> {
        let mut woken = Vec::new();
        let fired = self.timer.poll(cx)?.is_ready();
        // What came before the deadline is told before it.
        match self.netlink.poll_changes(cx) {
            Poll::Ready(Some(changes)) => woken.extend(changes.into_iter().map(Woken::Change)),
            Poll::Ready(None) => woken.push(Woken::NetlinkClosed),
            Poll::Pending => {}
        }
        // The other sockets say that something was lost, which their senders repeat.
        fair::take(
            cx,
            |cx| self.ndisc.poll_receive(cx),
            |received| push(&mut woken, received.map(Woken::Options)),
        );
        fair::take(
            cx,
            |cx| self.ntp.poll_receive(cx),
            |received| push(&mut woken, received.map(Woken::Time)),
        );
        if let Some(control) = &mut self.control {
            let poll = |cx: &mut Context<'_>| control.poll_request(cx, clock::now());
            fair::take(cx, poll, |request| {
                woken.push(Woken::Request(request));
                ControlFlow::Continue(())
            });
            woken.extend(control.take_warning().map(Woken::Warning));
        }
        self.ports.poll(cx, |link, packet| {
            woken.push(Woken::Packet(link, packet));
        });
        if fired {
            woken.push(Woken::Timer);
        }
        if woken.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(woken))
    }

    /// Carries out commands in order, and brings their answers.
    async fn carry_out(&mut self, core: &mut Core, commands: Vec<Command>) {
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            if let Some(answer) = self.execute(command).await {
                let further = core.step(clock::now(), answer);
                // Before what was wanted later: an answer is waited for.
                for command in further.into_iter().rev() {
                    commands.push_front(command);
                }
            }
        }
    }

    async fn execute(&mut self, command: Command) -> Option<Input<'static>> {
        match command {
            Command::Look => Some(match self.netlink.links().await {
                Ok(mut links) => {
                    for link in &mut links {
                        link.device = files::device(&link.name);
                    }
                    Input::Links(links)
                }
                Err(error) => failed(Doing::Asking, None, &error),
            }),
            Command::See => Some(match self.netlink.seen(clock::now()).await {
                Ok(seen) => Input::Seen(seen),
                Err(error) => failed(Doing::Asking, None, &error),
            }),
            Command::Apply(ops) => {
                let mut failures = Vec::new();
                for op in ops {
                    if let Err(error) = self.netlink.apply(&op, clock::now()).await {
                        failures.push((op, error.to_string()));
                    }
                }
                Some(Input::Applied(failures))
            }
            Command::ReadLease { link, mac } => Some(Input::Lease {
                link,
                text: files::read_small(&files::lease_path(&self.options.state_dir, mac)),
                clocks: clock::clocks(),
            }),
            Command::SaveLease { link, mac, lease } => {
                let path = files::lease_path(&self.options.state_dir, mac);
                let text = store::write(&lease, &clock::clocks());
                or_moved(files::replace(&path, &text), link)
            }
            Command::SyncLease { link, mac } => {
                let path = files::lease_path(&self.options.state_dir, mac);
                or_failed(files::sync(&path), Doing::Storing, link)
            }
            Command::RemoveLease { link, mac } => {
                let path = files::lease_path(&self.options.state_dir, mac);
                or_moved(files::remove(&path), link)
            }
            Command::ReadResolvConf => {
                let path = self.resolv_conf();
                Some(Input::ResolvConf(files::read_small(&path)))
            }
            Command::WriteResolvConf(text) => {
                let path = self.resolv_conf();
                let written = files::replace(&path, &text);
                let failed = written.err().map(|e| format!("{}: {e}", path.display()));
                Some(Input::Written(failed))
            }
            Command::LoopbackUp => {
                let result = self.netlink.loopback_up().await;
                result
                    .err()
                    .map(|error| failed(Doing::Loopback, None, &error))
            }
            Command::AddVlan { name, link, id } => {
                let result = self.netlink.add_vlan(&name, link, id).await;
                let error = result.err()?;
                let why = format!("VLAN {name}: {error}");
                Some(failed(Doing::Making, Some(link), &why))
            }
            Command::Prepare {
                link,
                name,
                up,
                mtu,
                settings,
            } => {
                let mut answer = None;
                for setting in settings {
                    if let Err(error) = files::set(&name, &setting) {
                        answer = Some(failed(Doing::Setting, Some(link), &error));
                    }
                }
                if (up || mtu.is_some())
                    && let Err(error) = self.netlink.set_link(link, up, mtu).await
                {
                    answer = Some(failed(Doing::Preparing, Some(link), &error));
                }
                answer
            }
            Command::Open { link, name, socket } => {
                let opened = self.ports.open(link, &name, socket);
                or_failed(opened, Doing::Opening(socket), link)
            }
            Command::Close { link, socket } => {
                self.ports.close(link, socket);
                None
            }
            Command::Send { link, to, payload } => {
                or_failed(self.ports.send(link, to, &payload), Doing::Sending, link)
            }
            Command::SendArp { link, payload } => {
                or_failed(self.ports.send_arp(link, &payload), Doing::Sending, link)
            }
            Command::Send6 { link, payload } => {
                or_failed(self.ports.send6(link, &payload), Doing::Sending, link)
            }
            Command::Solicit { link } => or_failed(ndisc::solicit(link), Doing::Sending, link),
            Command::SendNtp { to, bytes } => {
                let error = self.ntp.send(to, &bytes).err()?;
                Some(failed(Doing::Sending, None, &format!("{to}: {error}")))
            }
            Command::CloseNtp => {
                self.ntp.close();
                None
            }
            Command::Event(event) => {
                if event.routine {
                    self.outlet.routine(event.name, &event.fields);
                } else {
                    self.outlet.event(event.name, &event.fields);
                }
                None
            }
        }
    }
}

/// After an error of a socket its other datagrams wait for the next turn.
fn push(woken: &mut Vec<Woken>, received: io::Result<Woken>) -> ControlFlow<()> {
    match received {
        Ok(received) => {
            woken.push(received);
            ControlFlow::Continue(())
        }
        Err(error) => {
            woken.push(Woken::Broken(error));
            ControlFlow::Break(())
        }
    }
}

fn failed(doing: Doing, link: Option<u32>, why: &dyn ToString) -> Input<'static> {
    Input::Failed(Failure {
        doing,
        link,
        why: why.to_string(),
    })
}

/// What is to be told of a lease that was stored: a failure, or what was in the way.
fn or_moved(result: io::Result<Option<String>>, link: u32) -> Option<Input<'static>> {
    let why = result.unwrap_or_else(|error| Some(error.to_string()))?;
    Some(failed(Doing::Storing, Some(link), &why))
}

fn or_failed(result: io::Result<()>, doing: Doing, link: u32) -> Option<Input<'static>> {
    result.err().map(|error| failed(doing, Some(link), &error))
}
