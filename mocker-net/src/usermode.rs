//! Without root: a network stack in user space, pasta or slirp4netns, stands between the container and the host.
//!
//! An ordinary user may make a network namespace but may not connect it to the host's: a veth pair has an end there, and
//! rules are the host's own. So a program of the user's reads the container's packets from a tap device in the namespace
//! and speaks for it by sockets of the host, as any other program of that user. Source: pasta(1), slirp4netns(1).

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mocker_common::document::Document;
use mocker_common::error::{Error, failed};
use mocker_common::state::{Process, ensure_private_dir};
use mocker_common::step::step;
use mocker_common::undo::Undo;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{Mode, NetworkArgs};
use crate::calls::{BindMount, MakeFile, RemoveFile, UnshareNetwork};
use crate::ports::{self, Port, Protocol};
use crate::state::{Record, State};
use crate::{delete, plan};

/// The program that is a container's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    pub program: String,
    /// None until it runs
    pub process: Option<Process>,
    pub ports: Vec<Port>,
}

/// An address that means the stack itself: queries sent there go to the host's own name server.
const RESOLVER: &str = "169.254.1.1";

/// Whether the network namespace we are in is another's: an ordinary user's user namespace owns nothing of the host.
pub fn is_needed() -> Result<bool, Error> {
    let own = |kind: &str| {
        let path = format!("/proc/self/ns/{kind}");
        File::open(&path).map_err(failed("open", path))
    };
    let (user, network) = (own("user")?, own("net")?);
    const NS_GET_USERNS: libc::Ioctl = 0xb701u32 as libc::Ioctl;
    // SAFETY: the call takes a descriptor and returns one, or −1.
    let owner = unsafe { libc::ioctl(network.as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        return Ok(std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)); // the owner is out of our reach
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let owner = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(owner) };
    use std::os::unix::fs::MetadataExt;
    let inode = |file: &File| file.metadata().map(|metadata| metadata.ino()).map_err(failed("look at", "a namespace"));
    Ok(inode(&owner)? != inode(&user)?)
}

/// The job where there is no root.
pub fn recipe(document: &mut Document, args: &NetworkArgs, undo: &mut Undo) -> Result<(), Error> {
    if args.network == Mode::None {
        // mocker-exec makes an empty one with the container: nobody has to hold it until then.
        document.set_namespace("network", None);
        document.set("/mocker/network", json!({ "mode": Mode::None.word() }));
        return Ok(());
    }
    let id = document.ensure_id(None)?;
    plan::check_document(document)?;
    if args.ip.is_some() || args.subnet.is_some() {
        return Err(Error::new("cannot choose addresses without root: there is no bridge to have them on")
            .hint("leave out --ip and --subnet, or run it as root"));
    }
    let program = choose()?;
    let state = State::open();
    let stack = Stack {
        program: program.name.into(),
        process: None,
        ports: args.publish.iter().flat_map(|publication| publication.ports.clone()).collect(),
    };
    let netns = state.user_netns(&id);
    let mut record = Record { id: id.to_string(), netns: netns.clone(), link: None, stack: Some(stack.clone()) };
    undo.push(format!("the network of {id}"), {
        let id = id.clone();
        move || delete::unmake(&id)
    });
    {
        let _lock = state.lock()?;
        ports::check(&state, &stack.ports, std::net::Ipv4Addr::UNSPECIFIED)?;
        state.write_record(&record)?;
        ports::register(&state, &stack.ports, &id)?;
    }
    create_namespace(&netns)?;
    let process = (program.start)(&netns, &stack.ports)?;
    record.stack = Some(Stack { process: Some(process), ..stack.clone() });
    {
        let _lock = state.lock()?;
        state.write_record(&record)?;
    }
    document.set_namespace("network", Some(&netns));
    let dns = json!({ "nameservers": [program.resolver] });
    let network = json!({ "mode": "user", "stack": program.name, "interface": program.interface, "ports": stack.ports, "dns": dns });
    document.set("/mocker/network", network);
    Ok(())
}

/// Makes a network namespace that a file stands for. A thread goes there, and ends there: without root nobody may return.
fn create_namespace(path: &Path) -> Result<(), Error> {
    ensure_private_dir(path.parent().unwrap_or(Path::new("/")))?;
    step(MakeFile { path })
        .because("a mount needs something to be attached to, and O_EXCL refuses a name that is taken")?;
    let make = || {
        step(UnshareNetwork)
            .because("in the host's the container would see all its traffic and could take any of its ports")?;
        step(BindMount { from: Path::new("/proc/thread-self/ns/net"), onto: path })
            .because("without a process in it the namespace would vanish; the mount keeps it, and gives it a name")
    };
    std::thread::scope(|scope| scope.spawn(make).join())
        .unwrap_or_else(|_| Err(Error::new("cannot make a network namespace: the thread that was to make it is gone")))
}

/// A program that can be the container's network.
struct Program {
    name: &'static str,
    interface: &'static str,
    resolver: &'static str,
    start: fn(&Path, &[Port]) -> Result<Process, Error>,
}

/// pasta first: it copies the host's addresses and needs no translation, and a port is one option.
const PROGRAMS: [Program; 2] = [
    Program { name: "pasta", interface: "eth0", resolver: RESOLVER, start: start_pasta },
    Program { name: "slirp4netns", interface: "tap0", resolver: "10.0.2.3", start: start_slirp },
];

fn choose() -> Result<&'static Program, Error> {
    let wanted = std::env::var("MOCKER_USER_NETWORK").unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    let fits = |program: &&Program| (wanted.is_empty() || wanted == program.name) && is_there(program.name);
    PROGRAMS.iter().find(fits).ok_or_else(|| {
        Error::new("cannot give the container a network: there is neither pasta nor slirp4netns")
            .why(
                "without root nothing can be connected to the host's network; a program in user space stands in for it",
            )
            .hint("apt install passt, or --network none, or --network host")
    })
}

fn start_pasta(netns: &Path, ports: &[Port]) -> Result<Process, Error> {
    let pid_file = netns.with_extension("pid");
    let mut command = Command::new("pasta");
    command.args(["--config-net", "--quiet", "--no-map-gw", "--ns-ifname", "eth0", "--dns-forward", RESOLVER]);
    for (protocol, option) in [(Protocol::Tcp, "-t"), (Protocol::Udp, "-u")] {
        let forwards: Vec<&Port> = ports.iter().filter(|port| port.protocol == protocol).collect();
        for port in &forwards {
            command.arg(option).arg(format!("{}/{}:{}", port.host_address, port.host_port, port.container_port));
        }
        if forwards.is_empty() {
            command.args([option, "none"]);
        }
    }
    // Nothing of the host's loopback may be reached from inside unless it was asked for.
    command.args(["-T", "none", "-U", "none", "--pid"]).arg(&pid_file).arg("--netns").arg(netns);
    // It goes into the background by itself when the network is ready.
    let output = command.stdin(Stdio::null()).output().map_err(failed("run", "pasta"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let mut error = Error::new(format!("cannot make the container's network: pasta failed ({})", output.status));
        error.said = said.lines().rev().take(4).map(str::to_string).collect();
        error.said.reverse();
        if error.said.iter().any(|line| line.contains("tun")) {
            error.likely = "/dev/net/tun is closed to this user; most machines leave it open to all".into();
        }
        return Err(error.hint("--network none or host; or slirp4netns: MOCKER_USER_NETWORK=slirp4netns"));
    }
    let text = fs::read_to_string(&pid_file).map_err(failed("read", pid_file.display()))?;
    fs::remove_file(&pid_file).unwrap_or_default(); // it stands in the record from now on
    let pid = text.trim().parse().ok().and_then(Process::of);
    pid.ok_or_else(|| Error::new("cannot make the container's network: pasta has ended"))
}

fn start_slirp(netns: &Path, ports: &[Port]) -> Result<Process, Error> {
    if !ports.is_empty() {
        return Err(Error::new("cannot publish ports by slirp4netns").hint("apt install passt: pasta can"));
    }
    let (ready, write) = rustix::pipe::pipe().map_err(|errno| failed("make", "a pipe")(errno.into()))?;
    let mut command = Command::new("slirp4netns");
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", "--ready-fd"]);
    command.arg(write.as_raw_fd().to_string()).arg(netns).arg("tap0");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.map_err(failed("run", "slirp4netns"))?;
    drop((command, write));
    use std::io::Read;
    let mut byte = [0];
    match File::from(ready).read(&mut byte) {
        Ok(1) => Process::of(child.id() as i32)
            .ok_or_else(|| Error::new("cannot make the container's network: slirp4netns has ended")),
        _ => Err(Error::new("cannot make the container's network: slirp4netns failed")
            .hint(format!("slirp4netns --configure --netns-type=path {} tap0", netns.display()))),
    }
}

/// Ends the program and takes the namespace's name away. Succeeds if both are gone.
pub fn unmake(stack: &Stack, netns: &Path) -> Result<(), Error> {
    if let Some(process) = stack.process.filter(Process::is_alive)
        && let Some(pid) = rustix::process::Pid::from_raw(process.pid)
    {
        // It has inherited that a stage holds SIGTERM back, and has nothing to save. It may just have ended.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
    }
    let pid_file: PathBuf = netns.with_extension("pid");
    fs::remove_file(pid_file).unwrap_or_default(); // there only if we were killed meanwhile
    if netns.symlink_metadata().is_err() {
        return Ok(());
    }
    rustix::mount::unmount(netns, rustix::mount::UnmountFlags::DETACH).unwrap_or_default(); // it may be mounted elsewhere
    step(RemoveFile { path: netns }).because("the namespace goes with its name; pasta ends when that is gone")?;
    if let Some(parent) = netns.parent() {
        fs::remove_dir(parent).unwrap_or_default(); // not empty: in use
    }
    Ok(())
}
