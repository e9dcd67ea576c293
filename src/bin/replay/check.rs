//! `check`: is everything as it was written?
//!
//! Every byte of a file is under a checksum, so that each change shows: in the headers, in a body,
//! or in numbers that do not follow one another. Beyond that it is held whether frames are what
//! clients can read, with inputs of those who sit there.

use std::collections::BTreeMap;
use std::io::Write;

use lockstep_server::engine::id::{MatchId, PlayerId};
use lockstep_server::engine::wire::frame::{Frame, decode_frames};
use lockstep_server::journal::record::{FrameBytes, Place, Record};
use lockstep_server::journal::restore::{Restore, Restored, Why};
use lockstep_server::journal::scan::{Damage, Entry, Found, Scan};
use lockstep_server::limits::{FRAME_BYTES_MAX, JOURNAL_DAMAGE_TOLD_MAX};

use crate::source::Source;

/// Bytes that a frame takes beside what [`FRAME_BYTES_MAX`] counts, at the most.
const FRAME_SLACK: usize = 16;

/// Checks all of it, and says on standard output what there is and what is wrong.
///
/// # Errors
/// A text if anything is wrong.
pub(crate) fn check(source: &Source) -> Result<(), String> {
    let mut check = Check::new(source);
    let mut restore = Restore::default();
    source.each(|number, bytes| {
        restore.read(number, bytes);
        for found in Scan::new(number, bytes) {
            check.look(found);
        }
    })?;
    check.judge(&restore.finish());
    let mut out = std::io::stdout().lock();
    for line in &check.told {
        // The verdict counts, whoever still reads this.
        let _ = writeln!(out, "{line}");
    }
    match check.wrong {
        0 => Ok(()),
        1 => Err("something is wrong".to_owned()),
        wrong => Err(format!("{wrong} things are wrong")),
    }
}

struct Check<'a> {
    source: &'a Source,
    /// Who plays in each match.
    members: BTreeMap<MatchId, Vec<PlayerId>>,
    /// Damage of which it is not known yet whether it is a torn end.
    damage: Vec<Damage>,
    told: Vec<String>,
    wrong: usize,
}

impl Check<'_> {
    fn new(source: &Source) -> Check<'_> {
        Check {
            source,
            members: BTreeMap::new(),
            damage: Vec::new(),
            told: Vec::new(),
            wrong: 0,
        }
    }

    fn wrong(&mut self, line: String) {
        self.wrong += 1;
        if self.wrong <= JOURNAL_DAMAGE_TOLD_MAX {
            self.told.push(line);
        }
    }

    fn look(&mut self, found: Found<'_>) {
        match found {
            Found::Record(entry) => self.look_at_record(entry),
            Found::Damage(damage) if self.damage.len() < JOURNAL_DAMAGE_TOLD_MAX => {
                self.damage.push(damage);
            }
            Found::Damage(_) => self.wrong += 1,
        }
    }

    fn look_at_record(&mut self, entry: Entry<'_>) {
        match entry.record {
            Record::Created(created) => {
                self.members.insert(entry.match_id, created.members);
            }
            Record::Frame(frame) => {
                let members = self.members.get(&entry.match_id);
                if let Some(why) = members.and_then(|members| fault(&frame, members)) {
                    let place = self.place(entry.place);
                    let (id, of) = (frame.id(), entry.match_id);
                    self.wrong(format!("{place}: frame {id} of match {of}: {why}"));
                }
            }
            Record::Over { .. } => {
                self.members.remove(&entry.match_id);
            }
            _ => {}
        }
    }

    fn place(&self, place: Place) -> String {
        self.source.place(place.segment, place.offset)
    }

    fn judge(&mut self, restored: &Restored) {
        let is_journal = self.source.is_journal();
        for damage in std::mem::take(&mut self.damage) {
            let place = self.place(damage.place);
            if is_journal && damage.place >= restored.end {
                let (fault, len) = (damage.fault, damage.len);
                self.told.push(format!(
                    "{place}: {fault}; with this the journal ends ({len} bytes), as a server does \
                     that is killed, or that writes just now: no damage"
                ));
                continue;
            }
            let owner = damage.owner.map_or(String::new(), |owner| {
                format!(" (record {} of match {})", owner.seq, owner.match_id)
            });
            self.wrong(format!("{place}: {}{owner}", damage.fault));
        }
        for of in &restored.finished {
            let (id, frames, reason) = (of.match_id, of.frames, of.reason.name());
            match &of.lack {
                None => self
                    .told
                    .push(format!("match {id}: whole, {frames} frames, {reason}")),
                Some(lack) => {
                    let lack = self.source.lack(lack);
                    self.wrong(format!("match {id}: not whole: {lack}"));
                }
            }
        }
        for of in &restored.lost {
            let id = of.match_id;
            let line = match of.lack.why {
                Why::NoSecret => format!("match {id}: not whole: the file ends before it does"),
                _ => format!("match {id}: not whole: {}", self.source.lack(&of.lack)),
            };
            self.wrong(line);
        }
        for room in &restored.rooms {
            let (id, head) = (room.match_id, room.head);
            self.told
                .push(format!("match {id}: not over, {head} frames so far"));
        }
        let is_empty = restored.finished.is_empty() && restored.lost.is_empty();
        if !is_journal && is_empty && restored.rooms.is_empty() {
            self.wrong("there is no match in it: is it a recording?".to_owned());
        }
    }
}

/// What is wrong with a frame of a match of these players.
fn fault(bytes: &FrameBytes<'_>, members: &[PlayerId]) -> Option<&'static str> {
    if bytes.bytes().len() > FRAME_BYTES_MAX + FRAME_SLACK {
        return Some("it is larger than any frame");
    }
    let frame: Option<Frame> = decode_frames(bytes.bytes()).ok().and_then(|mut f| f.pop());
    let Some(frame) = frame else {
        return Some("it cannot be read");
    };
    let is_of_seat = |seat: i32, player: PlayerId| {
        let index = usize::try_from(seat)
            .ok()
            .and_then(|seat| seat.checked_sub(1));
        index.and_then(|index| members.get(index)) == Some(&player)
    };
    let mut inputs = frame.inputs.iter();
    if !inputs.all(|input| is_of_seat(input.seat, input.player)) {
        return Some("an input of somebody who does not sit there");
    }
    None
}
