//! What every cell has: a bed, a make of server, and a capture of the client's link.

use std::fs;
use std::time::Duration;

use crate::bed::capture::{Capture, Captured};
use crate::bed::relay::Faults;
use crate::bed::server::{Kind, Server};
use crate::bed::{Bed, Event, Process};

/// dnsmasq's shortest lease in seconds.
const TWO_MINUTES: u32 = 120;

/// What is between client and server.
#[derive(Debug, Clone, Copy)]
pub enum Cable {
    Plain,
    Switch,
    Lossy,
}

pub struct Lab {
    pub kind: Kind,
    pub bed: Bed,
    capture: Option<Capture>,
    captured: Option<Captured>,
}

impl Lab {
    pub fn new(kind: Kind, cable: Cable) -> Lab {
        let bed = match cable {
            Cable::Plain => Bed::new(),
            Cable::Switch => Bed::switched(),
            Cable::Lossy => Bed::lossy(Faults {
                seed: 7,
                lost: 30,
                twice: 15,
                late: Duration::from_millis(30),
            }),
        };
        let capture = Some(bed.capture());
        Lab {
            kind,
            bed,
            capture,
            captured: None,
        }
    }

    /// Starts the server.
    pub fn serve(&self, server: &Server) -> Process {
        self.kind.start(&self.bed.server, server)
    }

    /// A server with these times in seconds, or the nearest this make can do.
    pub fn timed(&self, net: u8, lease: u32, t1: u32, t2: u32) -> Server {
        let server = Server::new(net).times(lease, t1, t2);
        if self.kind.cannot(&server).is_some() {
            return server.times(TWO_MINUTES, t1, t2);
        }
        server
    }

    /// A server that says nothing rather than no, where this make can.
    pub fn silent(&self, server: Server) -> Server {
        let silent = Server {
            authoritative: false,
            ..server.clone()
        };
        if self.kind.cannot(&silent).is_some() {
            return server;
        }
        silent
    }

    /// Loses what the server knows. It must not run.
    pub fn forget_server(&self) {
        for entry in fs::read_dir(&self.bed.server.folder).expect("own folder") {
            fs::remove_file(entry.expect("own folder").path()).expect("own file");
        }
    }

    /// Waits for the next address, which the kernel must have by then, and nothing else.
    pub fn address(&self, netcfg: &mut Process, fields: &[(&str, &str)]) -> Event {
        let event = netcfg.event("net.address", fields);
        assert_eq!(self.bed.addresses().join(" "), event.get("address"));
        event
    }

    /// The default route of the kernel leads over this router.
    pub fn default_route(&self, router: &str) {
        let routes = self.bed.routes();
        let wanted = format!("default via {router} dev eth0 proto dhcp");
        assert!(routes.contains(&wanted), "{routes}");
    }

    /// Ends the capture, if it runs, and gives back what it has.
    pub fn captured(&mut self) -> Captured {
        if let Some(capture) = self.capture.take() {
            self.captured = Some(capture.stop());
        }
        self.captured.clone().expect("it was captured")
    }
}
