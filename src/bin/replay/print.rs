//! `print`: a match as text, or as lines of JSON.

use std::io::{self, BufWriter, ErrorKind, Write};

use lockstep_server::engine::id::PlayerId;
use lockstep_server::engine::wire::frame::{Frame, decode_frames};
use lockstep_server::journal::record::FrameBytes;
use lockstep_server::journal::restore::FinishedMatch;
use serde_json::{Value, json};

/// Prints a match on standard output.
///
/// # Errors
/// A text that names a frame that is none, or what the system says.
pub(crate) fn print(of: &FinishedMatch, as_json: bool) -> Result<(), String> {
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if as_json {
        writeln!(out, "{}", head_json(of)).and_then(|()| frames(of, &mut out, frame_json))
    } else {
        head(of, &mut out).and_then(|()| frames(of, &mut out, frame_text))
    };
    match printed.and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(format!("match {}: {error}", of.match_id)),
        Ok(()) => Ok(()),
    }
}

fn frames(
    of: &FinishedMatch,
    out: &mut impl Write,
    show: impl Fn(&Frame) -> String,
) -> io::Result<()> {
    let mut rest = &of.log[..];
    while let Some((bytes, behind)) = FrameBytes::split(rest) {
        rest = behind;
        let frame = decode_frames(bytes.bytes()).ok().and_then(|mut f| f.pop());
        let bad = || io::Error::other(format!("frame {} is none", bytes.id()));
        writeln!(out, "{}", show(&frame.ok_or_else(bad)?))?;
    }
    Ok(())
}

fn head(of: &FinishedMatch, out: &mut impl Write) -> io::Result<()> {
    let made = &of.created;
    let players = made.members.iter().map(PlayerId::to_string);
    let players: Vec<String> = players.collect();
    let created = made.created_unix_us.div_euclid(1_000_000);
    let started = of.started_unix.map_or("never".to_owned(), utc);
    let results: Vec<String> = made
        .members
        .iter()
        .zip(&of.results)
        .filter_map(|(player, result)| Some(format!("player {player} says {}", (*result)?)))
        .collect();
    writeln!(out, "match    {}", of.match_id)?;
    writeln!(out, "room     {}", made.room)?;
    writeln!(
        out,
        "players  {}, in the order of seats",
        players.join(", ")
    )?;
    writeln!(out, "hz       {}", made.hz)?;
    writeln!(out, "seed     {}", made.seed)?;
    writeln!(out, "created  {}", utc(created))?;
    writeln!(out, "started  {started}")?;
    writeln!(out, "over     {}", of.reason.name())?;
    if !results.is_empty() {
        writeln!(out, "winner   {}", results.join(", "))?;
    }
    writeln!(out, "frames   {}, of which those with input:", of.frames)
}

fn frame_text(frame: &Frame) -> String {
    let inputs = frame.inputs.iter().map(|input| {
        let command = &input.command;
        let data = match hex(&input.data) {
            hex if hex.is_empty() => hex,
            hex => format!(" data {hex}"),
        };
        format!(
            " | seat {} sid {} x {} y {}{data}",
            input.seat, command.sid, command.x, command.y
        )
    });
    format!("{:>7}{}", frame.id, inputs.collect::<String>())
}

/// As `GET /api/recordings` shows it, and the seed.
fn head_json(of: &FinishedMatch) -> Value {
    let made = &of.created;
    let seats = (1..).zip(made.members.iter().zip(&of.results));
    let seats: Vec<Value> = seats
        .map(|(seat, (player, result))| {
            let result = result.map(|winner| winner.to_string());
            json!({ "seat": seat, "player": player.to_string(), "result": result })
        })
        .collect();
    json!({
        "match": of.match_id.to_string(),
        "room": made.room.to_string(),
        "created": made.created_unix_us.div_euclid(1_000_000),
        "started": of.started_unix,
        "over": of.reason.name(),
        "hz": made.hz,
        "seed": made.seed,
        "frames": of.frames,
        "seats": seats,
    })
}

fn frame_json(frame: &Frame) -> String {
    let inputs: Vec<Value> = frame
        .inputs
        .iter()
        .map(|input| {
            let command = &input.command;
            json!({
                "seat": input.seat,
                "player": input.player.to_string(),
                "sid": command.sid,
                "x": command.x,
                "y": command.y,
                "data": hex(&input.data),
            })
        })
        .collect();
    json!({ "frame": frame.id, "inputs": inputs }).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A moment of Unix seconds, and as a date of UTC where its year has four digits.
fn utc(unix: i64) -> String {
    let (days, second) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    if !(-719_468..2_932_897).contains(&days) {
        return unix.to_string();
    }
    // Days since 0000-03-01, in which a year ends with February and its leap day.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC ({unix})")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, date) in [
            (0, "1970-01-01 00:00:00 UTC (0)"),
            (951_782_400, "2000-02-29 00:00:00 UTC (951782400)"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC (1700000000)"),
            (-1, "1969-12-31 23:59:59 UTC (-1)"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC (4107542399)"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC (4107542400)"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC (253402300799)"),
            (253_402_300_800, "253402300800"),
            (i64::MIN, "-9223372036854775808"),
        ] {
            assert_eq!(utc(unix), date);
        }
    }
}
