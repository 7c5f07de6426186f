//! The files of `deploy/`: that the system takes them, and that this command knows what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command::{Folder, command, mainstay, well};

/// Where the files have the program, and where the cluster file and its data.
const PROGRAM: &str = "/usr/local/bin/mainstay";
const FILE: &str = "/etc/mainstay/cluster.json";
const DATA: &str = "/var/lib/mainstay";
/// What a process may take beyond `drain.node_max` before `mainstay up` kills it, in seconds.
const BEYOND: u64 = 5;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap()
}

/// The only value of a key of a unit.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let found = lines.next().unwrap_or_else(|| panic!("there is no {key}"));
    assert_eq!(lines.next(), None, "{key} is there twice");
    found
}

/// `drain.node_max` as it is unless a file says otherwise, in seconds.
fn node_max() -> u64 {
    let said = well(&["check", "--describe"]);
    let (_, rest) = said.split_once("\n  node_max: time, ").unwrap();
    let (_, rest) = rest.split_once("default \"").unwrap();
    rest.split_once("s\"").unwrap().0.parse().unwrap()
}

/// That every option is one that the help of that subcommand names.
fn known(words: &[&str]) {
    let help = well(&[words[0], "--help"]);
    for word in words.iter().filter(|word| word.starts_with("--")) {
        let name = word.split('=').next().unwrap();
        assert!(help.contains(&format!("  {name} ")), "{name} is not in {help}");
    }
}

#[test]
fn k12_systemd_takes_the_units_and_waits_as_long_as_a_drain() {
    let folder = Folder::new("units");
    let (all, one) = (read("systemd/mainstay.service"), read("systemd/mainstay@.service"));
    for unit in [&all, &one] {
        let words: Vec<_> = value(unit, "ExecStart").split(' ').collect();
        assert_eq!(words[0], PROGRAM);
        assert!(words.contains(&FILE), "{words:?}");
        known(&words[1..]);
        assert_eq!(Path::new("/var/lib").join(value(unit, "StateDirectory")), Path::new(DATA));
        assert_eq!(value(unit, "Restart"), "on-failure", "who was drained stays down");
    }
    let seconds = |unit: &str| value(unit, "TimeoutStopSec").parse::<u64>().unwrap();
    assert!(seconds(&one) >= node_max() + BEYOND);
    // Gates, then the others.
    assert!(seconds(&all) >= 2 * (node_max() + BEYOND));
    assert_eq!(value(&all, "KillMode"), "mixed", "the supervisor stops its processes");

    // Systemd refuses a program that is not there.
    let program = command().get_program().to_str().unwrap().to_owned();
    let units = [("mainstay.service", all), ("mainstay@gate-1.service", one)];
    for (name, unit) in units {
        std::fs::write(folder.join(name), unit.replace(PROGRAM, &program)).unwrap();
        let verify = Command::new("systemd-analyze")
            .args(["verify", "--man=no", &folder.text(name)])
            .output();
        let Ok(verify) = verify else {
            eprintln!("systemd-analyze is not installed: {name} is checked by its text alone");
            continue;
        };
        let said = String::from_utf8_lossy(&verify.stderr);
        assert!(verify.status.success() && !said.contains(name), "{said}");
    }
}

/// The documents of the manifest, with their kinds.
fn manifest() -> Vec<(String, Value)> {
    let text = read("kubernetes/mainstay.yaml");
    let documents = text.split("\n---\n").map(|text| {
        let document: Value = serde_norway::from_str(text).unwrap();
        (document["kind"].as_str().unwrap().to_owned(), document)
    });
    documents.collect()
}

fn of_kind<'a>(all: &'a [(String, Value)], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    all.iter().filter(move |(of, _)| of == kind).map(|(_, document)| document)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn k12_kubernetes_starts_each_process_of_its_cluster_file_by_known_options() {
    let (folder, all) = (Folder::new("pods"), manifest());
    let text = of_kind(&all, "ConfigMap").next().unwrap()["data"]["cluster.json"].as_str().unwrap();
    assert!(text.contains(DATA));
    let file = folder.text("cluster.json");
    std::fs::write(&file, text.replace(DATA, &folder.text("data"))).unwrap();
    assert!(well(&["check", &file]).contains("4 processes, no fault found"));

    let mut pods = 0;
    for set in of_kind(&all, "StatefulSet") {
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(texts(&container["command"]), ["mainstay"]);
        let arguments = texts(&container["args"]);
        known(&arguments);
        for pod in 0..set["spec"]["replicas"].as_u64().unwrap() {
            let name = format!("{}-{pod}", set["metadata"]["name"].as_str().unwrap());
            let words = arguments.iter().map(|word| {
                let word = word.replace("$(POD_NAME)", &name).replace("$(POD_IP)", "10.9.8.7");
                word.replace(FILE, &file)
            });
            let shown = command()
                .args(words)
                .arg("--show")
                .env("MESH_KEY", "ab".repeat(32))
                .env("TICKET_KEY", "cd".repeat(32))
                .env("STORE_PASSWORD", "secret")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&shown.stdout);
            assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
            let own = format!("processes.{name}.listen.advertise = \"10.9.8.7:7100\"");
            assert!(said.contains(&own), "{own} is not in {said}");
            pods += 1;
        }
    }
    assert_eq!(pods, 4, "each process has its pod");
}

#[test]
fn k12_kubernetes_asks_by_known_commands_and_waits_as_long_as_a_drain() {
    let (folder, all) = (Folder::new("probes"), manifest());
    let file = folder.text("cluster.json");
    let text = of_kind(&all, "ConfigMap").next().unwrap()["data"]["cluster.json"].as_str().unwrap();
    std::fs::write(&file, text.replace(DATA, &folder.text("data"))).unwrap();
    for set in of_kind(&all, "StatefulSet") {
        let name = set["metadata"]["name"].as_str().unwrap();
        let spec = &set["spec"]["template"]["spec"];
        let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace >= node_max() + BEYOND, "{name}: {grace}");
        let container = &spec["containers"][0];
        let ports: Vec<_> = container["ports"].as_array().unwrap().iter().collect();
        let mut probes = 0;
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let probe = &container[probe];
            if let Some(port) = probe["tcpSocket"]["port"].as_str() {
                assert!(ports.iter().any(|known| known["name"] == port), "{port}");
                continue;
            }
            let words = texts(&probe["exec"]["command"]);
            assert_eq!((words[0], words[2]), ("mainstay", FILE));
            // Nothing runs yet, which is what the command says.
            let (is_well, said) = mainstay(&[words[1], &file]);
            assert!(!is_well && said.contains("on this machine"), "{said}");
            probes += 1;
        }
        assert!(probes >= 2, "{name}");
        for path in [Path::new(FILE).parent().unwrap(), Path::new(DATA)] {
            let mounts = container["volumeMounts"].as_array().unwrap();
            assert!(mounts.iter().any(|mount| mount["mountPath"] == path.to_str().unwrap()));
        }
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
        let service = of_kind(&all, "Service").find(|service| service["metadata"]["name"] == name);
        assert_eq!(&service.unwrap()["spec"]["selector"], labels);
        let mut budgets = of_kind(&all, "PodDisruptionBudget");
        let budget = budgets.find(|budget| &budget["spec"]["selector"]["matchLabels"] == labels);
        assert_eq!(budget.unwrap()["spec"]["maxUnavailable"], 1, "{name}");
    }
}
