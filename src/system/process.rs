//! Running a program to its end without a thread: where no more of those can be made, a change must
//! still end with an error that says so.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Output;

/// Runs a program; `None` where it took too long, and was killed.
pub(super) fn run(
    program: &Path,
    arguments: &[String],
    environment: &[(&str, String)],
    stdin: &[u8],
    limit: Duration,
) -> io::Result<Option<Output>> {
    #[expect(clippy::disallowed_types, reason = "this is what `System` does on a machine")]
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + limit;
    match talk(&mut child, stdin, deadline) {
        Ok(Some(output)) => Ok(Some(output)),
        other => {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait()?;
            other
        }
    }
}

/// Gives a child what it reads, and takes what it prints until both its outputs and itself end.
fn talk(child: &mut Child, stdin: &[u8], deadline: Instant) -> io::Result<Option<Output>> {
    let mut input = child.stdin.take().filter(|_| !stdin.is_empty());
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let fds = [
        input.as_ref().map(AsFd::as_fd),
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ];
    for fd in fds.into_iter().flatten() {
        fcntl_setfl(fd, OFlags::NONBLOCK)?;
    }
    let mut output = Output::default();
    let mut rest = stdin;
    while input.is_some() || stdout.is_some() || stderr.is_some() {
        let fds = [
            input.as_ref().map(|fd| (fd.as_fd(), PollFlags::OUT)),
            stdout.as_ref().map(|fd| (fd.as_fd(), PollFlags::IN)),
            stderr.as_ref().map(|fd| (fd.as_fd(), PollFlags::IN)),
        ];
        if !wait_for(fds.into_iter().flatten(), deadline)? {
            return Ok(None);
        }
        if let Some(pipe) = &mut input
            && !give(pipe, &mut rest)?
        {
            input = None;
        }
        if let Some(pipe) = &mut stdout
            && !take(pipe, &mut output.stdout)?
        {
            stdout = None;
        }
        if let Some(pipe) = &mut stderr
            && !take(pipe, &mut output.stderr)?
        {
            stderr = None;
        }
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // A kernel without these descriptors has a child end a moment after its outputs.
    if let Some(Ok(ended)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        && !wait_for([(ended.as_fd(), PollFlags::IN)].into_iter(), deadline)?
    {
        return Ok(None);
    }
    output.status = child.wait()?.code();
    Ok(Some(output))
}

/// Waits until something can be done; false where the time is over.
fn wait_for<'a>(
    fds: impl Iterator<Item = (BorrowedFd<'a>, PollFlags)>,
    deadline: Instant,
) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'a>> =
        fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes as much as fits; false when nothing is left, or nobody reads any more.
fn give(pipe: &mut impl Write, rest: &mut &[u8]) -> io::Result<bool> {
    while !rest.is_empty() {
        match pipe.write(rest) {
            Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(true),
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::BrokenPipe => return Ok(false),
                _ => return Err(error),
            },
        }
    }
    Ok(false)
}

/// Reads what is there; false at the end.
fn take(pipe: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    const PART: usize = 1 << 16;
    loop {
        let old = bytes.len();
        bytes.resize(old + PART, 0);
        let read = pipe.read(bytes.get_mut(old..).unwrap_or_default());
        bytes.truncate(old + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(true),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}
