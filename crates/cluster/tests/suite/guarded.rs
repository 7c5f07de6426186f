//! An etcd that lets in users only, or speaks encrypted to those whom it knows.

use std::path::PathBuf;
use std::time::Duration;

use cluster::{Cluster, EtcdOptions, EtcdTls, EtcdUser, Expect};
use env::Clock;
use etcd_client::{Client, ConnectOptions, PermissionType, RoleRevokePermissionOptions};

use crate::bench::*;

fn options_of(url: &str) -> EtcdOptions {
    let mut etcd = EtcdOptions::new([url.to_owned()], "test/");
    etcd.request_wait = Duration::from_secs(2);
    etcd.alive_every = Duration::from_secs(1);
    etcd
}

fn attach(etcd: EtcdOptions) -> Cluster {
    Cluster::etcd(etcd, options(), &Clock::system()).unwrap()
}

fn user(name: &str, password: &str) -> Option<EtcdUser> {
    Some(EtcdUser { name: name.to_owned(), password: password.to_owned() })
}

/// Why it does not come in; it does in the end if there is no reason.
fn shut_out(cluster: &Cluster) -> String {
    let mut told = None;
    eventually("etcd says something", || {
        told = cluster.shut_out();
        told.is_some() || cluster.old_since().is_none()
    });
    told.unwrap_or_default()
}

/// What the operator does.
fn as_root<R>(url: &str, work: impl AsyncFnOnce(&mut Client) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = ConnectOptions::new().with_user("root", "secret");
        let mut client = Client::connect([url], Some(options)).await.unwrap();
        work(&mut client).await
    })
}

fn permission() -> etcd_client::Permission {
    etcd_client::Permission::new(PermissionType::Readwrite, "test/").with_prefix()
}

#[test]
fn d17_etcd_lets_in_who_has_a_password_and_rights_and_others_are_told_what_to_do() {
    if servers::skipped() {
        return;
    }
    let etcd = servers::Etcd::start_guarded("secret").unwrap();
    let url = etcd.url();
    as_root(&url, async |client| {
        client.user_add("game", "open", None).await.unwrap();
        client.role_add("games").await.unwrap();
        client.user_grant_role("game", "games").await.unwrap();
    });
    let with = |user| attach(EtcdOptions { user, ..options_of(&url) });
    let nobody = shut_out(&with(None));
    assert!(nobody.contains("lets in users only: name one"), "{nobody}");
    let guess = with(user("game", "guess"));
    let told = shut_out(&guess);
    assert!(told.contains("knows no user \"game\" with this password: correct"), "{told}");
    assert!(!told.contains("guess"), "{told}");

    // As soon as the rights are there, it is in, and out again without them.
    let game = with(user("game", "open"));
    let told = shut_out(&game);
    assert!(told.contains("readwrite test/"), "{told}");
    as_root(&url, async |client| {
        client.role_grant_permission("games", permission()).await.unwrap();
    });
    eventually("it is let in", || game.old_since().is_none());
    assert_eq!(game.shut_out(), None);
    let life = Life::start(&game, "a");
    game.put("name/x", *b"", Some(life.node), Expect::Absent).unwrap();
    as_root(&url, async |client| {
        let below = Some(RoleRevokePermissionOptions::new().with_prefix());
        client.role_revoke_permission("games", "test/", below).await.unwrap();
    });
    eventually("its rights are gone", || game.shut_out().is_some());
    as_root(&url, async |client| {
        client.role_grant_permission("games", permission()).await.unwrap();
    });
    eventually("it is let in again", || game.old_since().is_none() && game.shut_out().is_none());
    assert_eq!(names(&game), "a");

    // Where nobody is asked for a password, a user is a mistake too.
    as_root(&url, async |client| {
        client.auth_disable().await.unwrap();
    });
    let told = shut_out(&with(user("game", "open")));
    assert!(told.contains("asks for no users"), "{told}");
    assert_eq!(shut_out(&with(None)), "");
}

/// A token is forgotten when nobody has used it for a while; who stood still has none that is good.
#[test]
fn d17_a_token_that_etcd_has_forgotten_is_renewed_without_a_break() {
    if servers::skipped() {
        return;
    }
    let etcd = servers::Etcd::start_guarded("secret").unwrap();
    // Nothing is asked for by itself meanwhile.
    let options = cluster::Options { lease: Duration::from_secs(3_600), ..options() };
    let guarded = EtcdOptions { user: user("root", "secret"), ..options_of(&etcd.url()) };
    let cluster = Cluster::etcd(guarded, options, &Clock::system()).unwrap();
    eventually("it is let in", || cluster.old_since().is_none());
    let mut token = None;
    as_root(&etcd.url(), async |client| {
        // One that is as old, of a client that does not renew it, shows when that is.
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            token = client.get("test/", None).await.err();
            if token.is_some() {
                break;
            }
        }
    });
    assert!(token.unwrap().to_string().contains("invalid auth token"));
    cluster.put("config/x", *b"1", None, Expect::Any).unwrap();
    assert_eq!((cluster.old_since(), cluster.shut_out()), (None, None));
    eventually("what was written is seen", || cluster.get("config/x").is_some());
}

#[test]
fn d17_etcd_is_believed_by_its_authority_and_wants_a_certificate() {
    if servers::skipped() {
        return;
    }
    let etcd = servers::Etcd::start_secure().unwrap();
    let file = |name: &str| etcd.secrets().join(name);
    let own = || Some((file("client.pem"), file("client.key")));
    let with = |authorities: Option<PathBuf>, certificate| {
        let tls = EtcdTls { authorities, certificate };
        attach(EtcdOptions { tls, ..options_of(&etcd.secure_url()) })
    };
    let cluster = with(Some(file("authority.pem")), own());
    assert_eq!(shut_out(&cluster), "");
    let _life = Life::start(&cluster, "a");
    assert_eq!(names(&cluster), "a");

    for authorities in [None, Some(file("other.pem"))] {
        let told = shut_out(&with(authorities, own()));
        assert!(told.contains("is not believed") && told.contains("`authorities`"), "{told}");
    }
    let told = shut_out(&with(Some(file("authority.pem")), None));
    assert!(told.contains("does not accept") && told.contains("`certificate`"), "{told}");
    let told = shut_out(&with(Some(file("nothing.pem")), own()));
    assert!(told.contains("the authorities of etcd in") && told.contains("nothing.pem"), "{told}");
}
