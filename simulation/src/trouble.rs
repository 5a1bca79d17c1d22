//! What disturbs the machine: each stimulus of the history, when its time has come.

use super::invariants::Checked;
use super::life::Saying;
use super::model::Border;
use super::random::between;
use super::stimulus::{Kind, Stimulus};
use super::world::{What, World};
use std::time::Duration;
use supervisor::core::{Command, Id, Input, Notification, ProbeKind, Program as Part};

const MS: Duration = Duration::from_millis(1);

impl World<'_> {
    pub(super) fn disturb(&mut self, stimulus: Stimulus) -> Checked {
        let Stimulus {
            service: place,
            kind,
            salt,
            lasts,
            ..
        } = stimulus;
        let life = &self.lives[place];
        let (alive, main) = (life.part.is_some(), life.part == Some(Part::Main));
        let incarnation = life.incarnation;
        let now = self.now;
        match kind {
            Kind::Exit if alive => {
                let code = [0, 0, 1, 78, 255][usize::try_from(salt % 5).unwrap_or(0)];
                self.end(place, Duration::ZERO, code, false);
            }
            Kind::Killed if alive => {
                let signal = [6, 9, 11, 15][usize::try_from(salt % 4).unwrap_or(0)];
                self.end(place, Duration::ZERO, signal, true);
            }
            Kind::OutOfMemory if alive => {
                self.end(place, Duration::ZERO, 9, true);
                self.feed(Input::OutOfMemory(Id(place)))?;
            }
            Kind::OutOfMemoryChild if self.lives[place].tree => {
                self.feed(Input::OutOfMemory(Id(place)))?;
            }
            Kind::ReadyStray => self.notify(place, Notification::Ready)?,
            Kind::Leaving if main => {
                if salt % 3 != 0 {
                    let code = i32::try_from(salt / 3 % 2).unwrap_or(0);
                    self.end(place, between(salt, 1, 5_000), code, false);
                }
                self.notify(place, Notification::Stopping)?;
            }
            Kind::Reloading if main => {
                if salt % 3 != 0 {
                    let delay = between(salt, 1, 5_000);
                    self.after(delay, What::Say(place, incarnation, Saying::Ready));
                }
                self.notify(place, Notification::Reloading)?;
            }
            Kind::Trigger if main => self.notify(place, Notification::WatchdogTrigger)?,
            Kind::Interval if main => {
                let spec = self.program.specs[place].watchdog;
                let own = spec.unwrap_or(Duration::from_secs(60));
                let wish = match salt % 3 {
                    0 => Duration::ZERO,
                    1 => own * 2,
                    _ => own / 2,
                };
                let idle = self.lives[place].interval.is_zero();
                self.lives[place].interval = wish;
                if !wish.is_zero() && (idle || spec.is_none()) {
                    self.after(wish / 2, What::Say(place, incarnation, Saying::Ping));
                }
                self.notify(place, Notification::WatchdogInterval(wish))?;
            }
            // Also out of a check, or when no process is left that could be replaced.
            Kind::MainMoved => {
                let pid = 4_100_000 + i32::try_from(salt % 50_000).unwrap_or(0);
                self.feed(Input::MainMoved(Id(place), pid))?;
            }
            Kind::StaleAnswer => {
                let probe = ProbeKind::ALL[usize::try_from(salt % 3).unwrap_or(0)];
                let last = self.lives[place].last_asked[probe as usize];
                let waited = self.lives[place].asked[probe as usize].is_some();
                let stale = if waited { last.wrapping_sub(1) } else { last };
                self.answer(place, probe, stale, salt % 2 == 0)?;
            }
            Kind::Gap => {
                // Seconds, minutes or hours.
                let most = [8_000, 600_000, 7_200_000][usize::try_from(salt % 3).unwrap_or(0)];
                let gap = between(salt / 3, 2_000, most);
                self.now += gap;
                self.over_by = self.over_by.saturating_add(gap);
            }
            Kind::LateTimers => {
                self.late_until = now + lasts.min(MS * 120_000);
                return Ok(());
            }
            Kind::Border => {
                // It is an effect when that time has come.
                self.aim(place, salt);
                return Ok(());
            }
            Kind::SpuriousTimer => self.feed(Input::Timer)?,
            Kind::Start => self.command(place, Command::Start)?,
            Kind::Stop => {
                // Most come back, or the rest of the run would be a quiet one.
                self.command(place, Command::Stop)?;
                if salt % 4 != 0 {
                    self.after(between(salt, 1, 900_000), What::Back(place));
                }
            }
            Kind::Restart => self.command(place, Command::Restart)?,
            Kind::Reload if main => self.command(place, Command::Reload)?,
            Kind::Exit
            | Kind::Killed
            | Kind::OutOfMemory
            | Kind::OutOfMemoryChild
            | Kind::Leaving
            | Kind::Reloading
            | Kind::Trigger
            | Kind::Interval
            | Kind::Reload => return Ok(()),
            _ => {
                // What the machine answers to a reboot is asked for rarely, so it holds for long.
                let long = matches!(kind, Kind::RebootGranted | Kind::RebootRefused);
                let life = &mut self.lives[place];
                life.until[kind as usize] = now + lasts * if long { 30 } else { 1 };
                life.salts[kind as usize] = salt;
                return Ok(());
            }
        }
        self.model.coverage.effect(kind);
        Ok(())
    }

    /// Something is going to happen when a threshold of this service is reached.
    fn aim(&mut self, place: usize, salt: u64) {
        let borders = self.model.borders(place);
        let Some(which) = (salt / 16).checked_rem(borders.len() as u64) else {
            return;
        };
        let (at, border) = borders[usize::try_from(which).unwrap_or(0)];
        if at > self.now {
            let incarnation = self.lives[place].incarnation;
            self.at(at, What::Border(place, incarnation, border, salt));
        }
    }

    /// It is reached now. Whether the timer for it was noticed before this or comes after it, is left open.
    pub(super) fn at_border(&mut self, place: usize, border: Border, salt: u64) -> Checked {
        let alive = self.lives[place].part.is_some();
        match border {
            Border::Law if alive => {
                let (number, signal) = [(1, false), (11, true), (0, false), (1, false)]
                    [usize::try_from(salt % 4).unwrap_or(0)];
                self.end(place, Duration::ZERO, number, signal);
                Ok(())
            }
            Border::Law => Ok(()),
            Border::Start | Border::Reload if !salt.is_multiple_of(3) => {
                self.notify(place, Notification::Ready)
            }
            Border::Start | Border::Reload | Border::Stop if salt.is_multiple_of(2) && alive => {
                let more = self.program.specs[place].start_timeout;
                self.notify(place, Notification::ExtendTimeout(more))
            }
            Border::Start | Border::Reload | Border::Stop if alive => {
                self.end(place, Duration::ZERO, 0, false);
                Ok(())
            }
            Border::Start | Border::Reload => Ok(()),
            Border::Stop => {
                self.rest_goes(place);
                Ok(())
            }
            Border::Wait => match salt % 4 {
                0 => {
                    self.after(between(salt, 1, 900_000), What::Back(place));
                    self.command(place, Command::Stop)
                }
                1 => self.command(place, Command::Restart),
                _ => self.command(place, Command::Start),
            },
            Border::Deferral => {
                // No process can be made in this moment, by no fault of the service.
                let life = &mut self.lives[place];
                life.until[Kind::SpawnFails as usize] = self.now + MS;
                life.salts[Kind::SpawnFails as usize] = 1 + salt % 2;
                self.command(place, Command::Start)
            }
            Border::Silence => self.notify(place, Notification::Watchdog),
            Border::Answer(kind) => match self.lives[place].asked[kind as usize] {
                Some(attempt) => {
                    self.lives[place].asked[kind as usize] = None;
                    self.answer(place, kind, attempt, salt.is_multiple_of(2))
                }
                None => Ok(()),
            },
        }
    }

    fn notify(&mut self, place: usize, what: Notification) -> Checked {
        self.feed(Input::Notify(Id(place), what))
    }

    pub(super) fn command(&mut self, place: usize, command: Command) -> Checked {
        self.feed(Input::Command(Id(place), command))
    }
}
