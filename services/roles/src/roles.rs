//! What can be done with the roles of an account.

use mainstay::prelude::*;

use crate::Options;
use crate::archive::{Archive, DAY_MS};
use crate::records::{Account, Role, RoleData, Roster, TakenName};

/// Reasons that keep an account out of the archive, at most.
const KEEPS_MAX: usize = 16;

/// The roles of one account, which is its key.
#[entity]
#[derive(Default)]
pub struct Roles {
    options: Options,
    archive: Option<Archive>,
}

/// Why something was not done. Each variant says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub enum RolesError {
    /// Choose another name: it is empty, too short, too long, or has characters that are neither
    /// letters nor digits.
    BadName,
    /// Choose another name: somebody on that server has it.
    NameTaken,
    /// Choose a server that there is.
    NoSuchServer,
    /// The account has no role of that id. Ids of others are no different.
    NoSuchRole,
    /// Delete another one first, and wait until it cannot be restored any more.
    TooMany,
    /// It is not deleted, or was deleted too long ago.
    NotDeleted,
    /// It is deleted: restore it first.
    Deleted,
    /// What belongs to the role is larger than the game allows.
    TooLarge,
    /// Somebody else has written it since it was loaded: load it again. The version is the current
    /// one.
    Conflict(u64),
    /// Nothing was done, or nobody knows: try again later, after a look at the list.
    Unavailable,
}

impl From<RecordError> for RolesError {
    fn from(error: RecordError) -> Self {
        if !matches!(error, RecordError::Unavailable | RecordError::Unknown) {
            tracing::warn!(%error, "the records of roles");
        }
        RolesError::Unavailable
    }
}

/// A role with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Loaded {
    /// The role.
    pub role: Role,
    /// The version that a save has to name.
    pub version: u64,
    /// What the game keeps.
    pub data: Bytes,
}

impl Roles {
    /// Roles under `options`.
    pub fn new(options: Options) -> Self {
        Roles { options, archive: None }
    }

    /// The same, with the archive that accounts come back from.
    #[must_use]
    pub fn with_archive(self, archive: Archive) -> Self {
        Roles { archive: Some(archive), ..self }
    }

    /// Sees to it that the account is in the live store, and that its use is written down.
    async fn present(&self, cx: &Cx<Self>) -> Result<(), RolesError> {
        for _ in 0..8 {
            let mut account = cx.draft_record::<Account>(&cx.key()).await?;
            let now = cx.wall().0;
            let written = match account.archived {
                None if now < account.seen_ms.saturating_add(DAY_MS) => return Ok(()),
                None => {
                    account.seen_ms = now;
                    cx.write_records(Batch::new().put(account)).await
                }
                Some(copy) => self.bring_back(cx, account, copy).await?,
            };
            match written {
                Ok(()) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RolesError::Unavailable)
    }

    /// Writes the copy back, then removes it from the archive. The inner error is that of the write.
    async fn bring_back(
        &self,
        cx: &Cx<Self>,
        mut account: Draft<Account>,
        wanted: u64,
    ) -> Result<Result<(), RecordError>, RolesError> {
        let number = cx.key();
        let Some(archive) = self.archive.clone() else {
            let problem = "it is archived: give the roles service its archive";
            tracing::error!(account = number, problem);
            return Err(RolesError::Unavailable);
        };
        let from = archive.clone();
        let copy = cx.blocking(move || from.copy(number, wanted)).await;
        let copy = copy.map_err(|_| RolesError::Unavailable)?.map_err(|error| {
            tracing::error!(account = number, %error, "an account stays in the archive");
            RolesError::Unavailable
        })?;
        let mut batch = Batch::new();
        let roster = cx.draft_record::<Roster>(&number).await?;
        let mut is_here = roster.exists();
        batch = batch.put_stored(roster, copy.roster().cloned().unwrap_or_default());
        for (role, body) in copy.data() {
            let data = cx.draft_record::<RoleData>(&role).await?;
            is_here |= data.exists();
            batch = batch.put_stored(data, body.clone());
        }
        account.archived = None;
        account.seen_ms = cx.wall().0;
        if is_here {
            // Perhaps somebody else has just brought it back: then it is not archived any more.
            let now = cx.draft_record::<Account>(&number).await?;
            if now.version() == account.version() {
                let error = crate::archive::ArchiveError::Both(number);
                tracing::error!(account = number, %error, "an account stays in the archive");
                return Err(RolesError::Unavailable);
            }
        }
        if let Err(error) = cx.write_records(batch.put(account)).await {
            return Ok(Err(error));
        }
        let removed = cx.blocking(move || archive.remove(&copy)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(account = number, %error, "a copy is left in the archive: sweep it");
        }
        Ok(Ok(()))
    }

    fn is_server(&self, server: u32) -> bool {
        self.options.servers.is_empty() || self.options.servers.contains(&server)
    }

    /// Until when a role can be restored that is deleted at `at`.
    fn until(&self, at: u64) -> u64 {
        let keep = u64::try_from(self.options.keep_deleted.as_millis()).unwrap_or(u64::MAX);
        at.saturating_add(keep)
    }

    /// Whether a role is there or can still be restored.
    fn can_return(&self, role: &Role, now: u64) -> bool {
        role.deleted_ms.is_none_or(|at| now < self.until(at))
    }

    fn check_name(&self, name: &str) -> Result<(), RolesError> {
        let length = name.chars().count();
        let range = self.options.name_len_min.max(1)..=self.options.name_len_max.min(32);
        let is_good = range.contains(&length) && name.chars().all(char::is_alphanumeric);
        if is_good { Ok(()) } else { Err(RolesError::BadName) }
    }

    /// The roster without what can no longer be restored, whose names and data go as well.
    async fn swept(&self, cx: &Cx<Self>) -> Result<Draft<Roster>, RecordError> {
        let mut roster = cx.draft_record::<Roster>(&cx.key()).await?;
        let now = cx.wall().0;
        let over: Vec<Role> =
            roster.roles.iter().filter(|role| !self.can_return(role, now)).cloned().collect();
        if over.is_empty() {
            return Ok(roster);
        }
        let mut batch = Batch::new();
        for role in over {
            let name = cx.draft_record::<TakenName>(&name_key(role.server, &role.name)).await?;
            // Somebody may have taken it since it was free.
            if name.role == role.id {
                batch = batch.remove(name);
            }
            batch = batch.remove(cx.draft_record::<RoleData>(&role.id).await?);
            roster.roles.retain(|other| other.id != role.id);
        }
        cx.write_records(batch.put(roster)).await?;
        cx.draft_record::<Roster>(&cx.key()).await
    }

    /// Changes the roster with whatever goes along, anew if another node was faster.
    async fn change<T>(
        &self,
        cx: &Cx<Self>,
        change: impl AsyncFn(&mut Roster, Batch) -> Result<(T, Batch), RolesError>,
    ) -> Result<T, RolesError> {
        for _ in 0..8 {
            let mut roster = match self.swept(cx).await {
                Ok(roster) => roster,
                Err(error) if error.is_conflict() => continue,
                Err(error) => return Err(error.into()),
            };
            let (value, batch) = change(&mut roster, Batch::new()).await?;
            match cx.write_records(batch.put(roster)).await {
                Ok(()) => return Ok(value),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RolesError::Unavailable)
    }
}

fn name_key(server: u32, name: &str) -> (u32, String) {
    (server, name.to_lowercase())
}

impl TakenName {
    /// Whether nobody else may have the name yet.
    fn is_held(&self, now: u64) -> bool {
        self.role != 0 && self.until_ms.is_none_or(|until| now < until)
    }
}

fn find(roster: &mut Roster, id: u64) -> Result<&mut Role, RolesError> {
    roster.roles.iter_mut().find(|role| role.id == id).ok_or(RolesError::NoSuchRole)
}

#[rpc]
impl Roles {
    /// The roles, deleted ones too while they can be restored, in the order in which they were made.
    #[request(client)]
    #[invoke(server)]
    async fn list(&mut self, cx: &mut Cx<Self>) -> Result<Vec<Role>, RolesError> {
        self.present(cx).await?;
        let roster = cx.read_record::<Roster>(&cx.key()).await?;
        let now = cx.wall().0;
        let roles = roster.map(|roster| roster.roles.clone()).unwrap_or_default();
        Ok(roles.into_iter().filter(|role| self.can_return(role, now)).collect())
    }

    /// Makes a role.
    #[request(client, rate = "2/s")]
    async fn create(
        &mut self,
        cx: &mut Cx<Self>,
        server: u32,
        name: String,
    ) -> Result<Role, RolesError> {
        self.present(cx).await?;
        self.check_name(&name)?;
        if !self.is_server(server) {
            return Err(RolesError::NoSuchServer);
        }
        let role = Role {
            // Zero is nobody.
            id: cx.random(|random| random.u64()).max(1),
            server,
            name,
            created_ms: cx.wall().0,
            deleted_ms: None,
        };
        let (cx, now, most) = (&*cx, cx.wall().0, self.options.roles_max.min(32));
        self.change(cx, async |roster, batch| {
            if roster.roles.len() >= most {
                return Err(RolesError::TooMany);
            }
            let mut taken = cx.draft_record::<TakenName>(&name_key(server, &role.name)).await?;
            if taken.is_held(now) {
                return Err(RolesError::NameTaken);
            }
            *taken = TakenName { role: role.id, until_ms: None };
            let mut data = cx.draft_record::<RoleData>(&role.id).await?;
            data.account = cx.key();
            roster.roles.push(role.clone());
            Ok((role.clone(), batch.put(taken).put(data)))
        })
        .await
    }

    /// Deletes a role. It can be restored for some days; its name stays taken that long.
    #[request(client)]
    async fn delete(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<(), RolesError> {
        self.present(cx).await?;
        let (cx, now) = (&*cx, cx.wall().0);
        self.change(cx, async |roster, batch| {
            let role = find(roster, id)?;
            if role.deleted_ms.is_some() {
                return Err(RolesError::Deleted);
            }
            role.deleted_ms = Some(now);
            let key = name_key(role.server, &role.name);
            let mut taken = cx.draft_record::<TakenName>(&key).await?;
            taken.until_ms = Some(self.until(now));
            Ok(((), batch.put(taken)))
        })
        .await
    }

    /// Restores a deleted role.
    #[request(client)]
    async fn restore(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<Role, RolesError> {
        self.present(cx).await?;
        let cx = &*cx;
        self.change(cx, async |roster, batch| {
            let role = find(roster, id)?;
            if role.deleted_ms.take().is_none() {
                return Err(RolesError::NotDeleted);
            }
            let key = name_key(role.server, &role.name);
            let mut taken = cx.draft_record::<TakenName>(&key).await?;
            if taken.role != id {
                return Err(RolesError::NameTaken);
            }
            taken.until_ms = None;
            Ok((role.clone(), batch.put(taken)))
        })
        .await
    }

    /// A role and what belongs to it.
    #[request(client)]
    #[invoke(server)]
    async fn load(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<Loaded, RolesError> {
        self.present(cx).await?;
        let roster = cx.read_record::<Roster>(&cx.key());
        let data = cx.read_record::<RoleData>(&id);
        let (roster, data) = (roster.await?, data.await?);
        let role =
            roster.and_then(|roster| roster.roles.iter().find(|role| role.id == id).cloned());
        let role = role.ok_or(RolesError::NoSuchRole)?;
        if role.deleted_ms.is_some() {
            return Err(RolesError::Deleted);
        }
        let data = data.filter(|data| data.account == cx.key()).ok_or(RolesError::NoSuchRole)?;
        Ok(Loaded { role, version: data.version(), data: data.data.clone() })
    }

    /// Replaces what belongs to a role, if it is at that version; the new version.
    #[invoke(server)]
    async fn save(
        &mut self,
        cx: &mut Cx<Self>,
        id: u64,
        version: u64,
        data: Bytes,
    ) -> Result<u64, RolesError> {
        self.present(cx).await?;
        if data.len() > self.options.data_bytes_max {
            return Err(RolesError::TooLarge);
        }
        let roster = cx.read_record::<Roster>(&cx.key()).await?.ok_or(RolesError::NoSuchRole)?;
        let role = roster.roles.iter().find(|role| role.id == id).ok_or(RolesError::NoSuchRole)?;
        if role.deleted_ms.is_some() {
            return Err(RolesError::Deleted);
        }
        let mut draft = cx.draft_record::<RoleData>(&id).await?;
        if draft.version() != version {
            return Err(RolesError::Conflict(draft.version()));
        }
        if draft.data == data {
            return Ok(version);
        }
        draft.data = data;
        // Not into a role that is deleted or moved at the same moment.
        match cx.write_records(Batch::new().put(draft).unchanged(&roster)).await {
            Ok(()) => Ok(version + 1),
            Err(RecordError::Conflict { current, .. }) => Err(RolesError::Conflict(current)),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a role to another server, where its name must be free.
    #[invoke(server)]
    async fn relocate(
        &mut self,
        cx: &mut Cx<Self>,
        id: u64,
        server: u32,
    ) -> Result<Role, RolesError> {
        self.present(cx).await?;
        if !self.is_server(server) {
            return Err(RolesError::NoSuchServer);
        }
        let cx = &*cx;
        self.change(cx, async |roster, batch| {
            let role = find(roster, id)?;
            if role.deleted_ms.is_some() {
                return Err(RolesError::Deleted);
            }
            if role.server == server {
                return Ok((role.clone(), batch));
            }
            let old = cx.draft_record::<TakenName>(&name_key(role.server, &role.name)).await?;
            let mut new = cx.draft_record::<TakenName>(&name_key(server, &role.name)).await?;
            if new.is_held(cx.wall().0) {
                return Err(RolesError::NameTaken);
            }
            *new = TakenName { role: id, until_ms: None };
            role.server = server;
            Ok((role.clone(), batch.remove(old).put(new)))
        })
        .await
    }

    /// Names what keeps the account out of the archive for inactive ones, such as a guild that it
    /// leads, until [`let_go`](Self::let_go).
    #[invoke(server)]
    async fn keep(&mut self, cx: &mut Cx<Self>, reason: String) -> Result<(), RolesError> {
        let (now, number) = (cx.wall().0, cx.key());
        let kept = cx.update_record::<Account, _>(&number, |account| {
            if account.seen_ms == 0 {
                account.seen_ms = now;
            }
            if account.keeps.contains(&reason) {
                return Ok(());
            }
            if account.keeps.len() >= KEEPS_MAX {
                return Err(RolesError::TooMany);
            }
            account.keeps.push(reason.clone());
            Ok(())
        });
        kept.await?
    }

    /// Takes back what [`keep`](Self::keep) named.
    #[invoke(server)]
    async fn let_go(&mut self, cx: &mut Cx<Self>, reason: String) -> Result<(), RolesError> {
        let number = cx.key();
        let gone = cx.update_record::<Account, _>(&number, |account| {
            account.keeps.retain(|other| *other != reason);
        });
        Ok(gone.await?)
    }
}
