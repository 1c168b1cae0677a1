//! Where files are: a path or URL as an object store, a base, and which keys below the base are meant.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use tidemark_common::{Error, Hidden, Result, SqlState};

use crate::options::Options;

/// A running source bears with a store that is away for so long; a statement whose answer somebody waits for does not.
const PATIENCE: Retries = Retries { most: 20, within: Duration::from_secs(180) };
const HASTE: Retries = Retries { most: 2, within: Duration::from_secs(10) };

#[derive(Debug, Clone, Copy)]
struct Retries {
    most: usize,
    within: Duration,
}

/// Which keys below the base are files of the source.
#[derive(Debug, Clone)]
pub(super) enum Matching {
    All,
    One(Path),
    Glob(Pattern),
    /// A URL that may name an object or what is above objects: these if there are any. (Asked in this order: a server that keeps
    /// objects as files may answer for a directory with an error.)
    OneOrAll(Path),
}

#[derive(Debug, Clone)]
pub(super) struct Location {
    /// Keys are below the base.
    pub store: Arc<dyn ObjectStore>,
    /// The same, but soon tired of a store that does not answer.
    hasty: Arc<dyn ObjectStore>,
    pub matching: Matching,
    /// For messages: the base as the user would write it.
    pub base: String,
    /// Of a URL: what its keys are below.
    root: String,
    /// The base on the local file system.
    pub local: Option<PathBuf>,
}

/// Credentials and endpoint of an S3 or like service.
#[derive(Debug, Clone, Default)]
pub(super) struct S3Options {
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<Hidden>,
    secret_access_key: Option<Hidden>,
    session_token: Option<Hidden>,
}

impl S3Options {
    pub fn parse(options: &mut Options) -> Self {
        Self {
            endpoint: options.take("s3.endpoint"),
            region: options.take("s3.region"),
            access_key_id: options.take_credential("s3.access_key_id"),
            secret_access_key: options.take_credential("s3.secret_access_key"),
            session_token: options.take_credential("s3.session_token"),
        }
    }

    fn store(&self, bucket: &str, retries: Retries) -> Result<Arc<dyn ObjectStore>> {
        // Without keys, those of the environment or the machine's role count.
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        builder = builder.with_retry(RetryConfig {
            max_retries: retries.most,
            retry_timeout: retries.within,
            ..RetryConfig::default()
        });
        let connect = AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout);
        builder = builder.with_config(connect, "5 seconds");
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        // Who writes http:// means it.
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        if endpoint.is_some_and(|e| e.starts_with("http://")) {
            builder = builder.with_allow_http(true);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(id) = &self.access_key_id {
            builder = builder.with_access_key_id(id.reveal());
        }
        if let Some(secret) = &self.secret_access_key {
            builder = builder.with_secret_access_key(secret.reveal());
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token.reveal());
        }
        Ok(Arc::new(builder.build().map_err(|e| Error::invalid(format!("cannot use bucket \"{bucket}\": {e}")))?))
    }
}

impl Location {
    /// What a source reads. A local path must exist.
    pub fn to_read(path: &str, s3: &S3Options) -> Result<Self> {
        match path.split_once("://") {
            None => Self::local(FsPath::new(path)),
            Some(("file", rest)) => Self::local(FsPath::new(rest)),
            Some((scheme, rest)) => {
                let (store, key) = remote(scheme, rest, path, s3, PATIENCE)?;
                let (hasty, _) = remote(scheme, rest, path, s3, HASTE)?;
                let hasty = Self::below(hasty, &key, path)?.store;
                Ok(Self { hasty, ..Self::below(store, &key, path)? })
            }
        }
    }

    /// The directory into which a sink writes.
    pub fn to_write(path: &str, s3: &S3Options) -> Result<Self> {
        let dir = match path.split_once("://") {
            None => FsPath::new(path),
            Some(("file", rest)) => FsPath::new(rest),
            Some((scheme, rest)) => {
                // Who delivers tries again by itself, and says meanwhile what is wrong.
                let (store, key) = remote(scheme, rest, path, s3, HASTE)?;
                let dir = if key.is_empty() { key } else { format!("{}/", key.trim_end_matches('/')) };
                return Self::below(store, &dir, path);
            }
        };
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::from(e).context(format!("cannot make directory \"{path}\"")))?;
        Self::local_dir(dir, Matching::All)
    }

    fn local(path: &FsPath) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let shown = path.display().to_string();
        if let Some((base, pattern)) = split_glob(&shown) {
            return Self::local_dir(FsPath::new(base), Matching::Glob(compile(pattern)?));
        }
        let meta = std::fs::metadata(&path).map_err(|e| cannot_read(e, &shown))?;
        if meta.is_dir() {
            return Self::local_dir(&path, Matching::All);
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            return Err(Error::invalid(format!("\"{shown}\" does not name a file")));
        };
        let name = Path::parse(name).map_err(|e| store_error(e.into(), &shown))?;
        Self::local_dir(dir, Matching::One(name))
    }

    fn local_dir(dir: &FsPath, matching: Matching) -> Result<Self> {
        let shown = dir.display().to_string();
        let dir = dir.canonicalize().map_err(|e| cannot_read(e, &shown))?;
        let store = LocalFileSystem::new_with_prefix(&dir).map_err(|e| store_error(e, &shown))?;
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        Ok(Self { hasty: store.clone(), store, matching, root: shown.clone(), base: shown, local: Some(dir) })
    }

    /// `key`: a key, a prefix, or a glob, in `store`.
    pub fn below(store: Arc<dyn ObjectStore>, key: &str, shown: &str) -> Result<Self> {
        let (base, matching) = match split_glob(key) {
            Some((base, pattern)) => (base, Matching::Glob(compile(pattern)?)),
            None if key.is_empty() || key.ends_with('/') => (key, Matching::All),
            None => match key.rsplit_once('/') {
                Some((base, name)) => (base, Matching::OneOrAll(Path::from(name))),
                None => ("", Matching::OneOrAll(Path::from(key))),
            },
        };
        let prefix = Path::parse(base.trim_matches('/')).map_err(|e| store_error(e.into(), shown))?;
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, prefix));
        let bucket =
            shown.find("://").map_or("", |at| &shown[..shown[at + 3..].find('/').map_or(shown.len(), |n| at + 3 + n)]);
        let root = if base.trim_matches('/').is_empty() {
            bucket.to_string()
        } else {
            format!("{bucket}/{}", base.trim_matches('/'))
        };
        Ok(Self { hasty: store.clone(), store, matching, base: shown.to_string(), root, local: None })
    }

    /// For a statement whose answer somebody waits for.
    pub fn in_haste(&self) -> Self {
        Self { store: self.hasty.clone(), ..self.clone() }
    }

    /// An error if the place cannot be read. It may be empty.
    pub async fn check(&self) -> Result<()> {
        let hasty = self.in_haste();
        match &hasty.matching {
            Matching::One(_) => Ok(()),
            Matching::OneOrAll(key) if hasty.is_empty(Some(key)).await? => match hasty.head(key).await {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(store_error(error, &self.base)),
            },
            Matching::OneOrAll(_) => Ok(()),
            Matching::All | Matching::Glob(_) => hasty.is_empty(None).await.map(|_| ()),
        }
    }

    async fn is_empty(&self, prefix: Option<&Path>) -> Result<bool> {
        self.store.list(prefix).try_next().await.map(|first| first.is_none()).map_err(|e| self.list_error(e))
    }

    fn list_error(&self, error: object_store::Error) -> Error {
        // What the store says of a listing comes as text only.
        let said = error.to_string();
        match (&error, &self.local) {
            _ if self.local.is_none() && said.contains("403 Forbidden") => refused(&error, &self.base),
            (_, None) if said.contains("NoSuchBucket") => {
                Error::new(SqlState::UndefinedFile, format!("cannot list \"{}\": there is no such bucket", self.base))
            }
            _ => store_error(error, &self.base),
        }
    }

    /// The files that are there now, in key order.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>> {
        let prefix = match &self.matching {
            Matching::One(key) => return self.one(key).await,
            Matching::OneOrAll(key) => Some(key),
            Matching::All | Matching::Glob(_) => None,
        };
        let mut is_empty = true;
        let mut found: Vec<ObjectMeta> = self
            .store
            .list(prefix)
            .inspect_ok(|_| is_empty = false)
            .try_filter(|meta| std::future::ready(self.matches(&meta.location)))
            .try_collect()
            .await
            .map_err(|e| self.list_error(e))?;
        if let (Some(key), true) = (prefix, is_empty) {
            return self.one(key).await;
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// The one file. That it was there has been checked; one that is taken away after it was read is no error.
    async fn one(&self, key: &Path) -> Result<Vec<ObjectMeta>> {
        match self.head(key).await {
            Ok(meta) => Ok(vec![meta]),
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(other) => Err(store_error(other, &self.base)),
        }
    }

    /// What the store knows of a file. (A store below a prefix answers with the whole key.)
    pub async fn head(&self, key: &Path) -> object_store::Result<ObjectMeta> {
        Ok(ObjectMeta { location: key.clone(), ..self.store.head(key).await? })
    }

    fn matches(&self, key: &Path) -> bool {
        let hidden = key.as_ref().is_empty() || key.parts().any(|part| part.as_ref().starts_with(['_', '.']));
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        !hidden
            && match &self.matching {
                Matching::Glob(pattern) => pattern.matches_with(key.as_ref(), options),
                _ => true,
            }
    }

    /// A file for messages.
    pub fn show(&self, key: &Path) -> String {
        match &self.local {
            Some(dir) => dir.join(key.as_ref()).display().to_string(),
            None => format!("{}/{key}", self.root),
        }
    }
}

/// The store of a URL and the key in it.
fn remote(
    scheme: &str,
    rest: &str,
    shown: &str,
    s3: &S3Options,
    retries: Retries,
) -> Result<(Arc<dyn ObjectStore>, String)> {
    let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        "s3" | "s3a" if !host.is_empty() => Ok((s3.store(host, retries)?, key.to_string())),
        "s3" | "s3a" => Err(Error::invalid(format!("\"{shown}\" names no bucket"))),
        other => Err(Error::unsupported(format!("paths of the kind \"{other}://\" are not supported"))
            .with_hint("A local path, file:// or s3:// (with s3.endpoint for other services of its kind).")),
    }
}

/// A path with wildcards: the directories before the first of them, and the rest.
fn split_glob(path: &str) -> Option<(&str, &str)> {
    let wildcard = path.find(['*', '?', '['])?;
    Some(match path[..wildcard].rfind('/') {
        Some(slash) => (&path[..slash.max(1)], &path[slash + 1..]),
        None => ("", path),
    })
}

fn compile(pattern: &str) -> Result<Pattern> {
    Pattern::new(pattern).map_err(|e| Error::invalid(format!("the pattern \"{pattern}\" cannot be used: {e}")))
}

fn cannot_read(error: std::io::Error, path: &str) -> Error {
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let ours = Error::from(error).context(format!("cannot read \"{path}\""));
    if missing {
        ours.with_hint("The path is the server's, relative to the directory it was started in.")
    } else {
        ours
    }
}

/// An error of the store about `what`.
pub(super) fn store_error(error: object_store::Error, what: &str) -> Error {
    let remote = what.contains("://");
    let said = |state| Error::new(state, format!("cannot use \"{what}\": {error}"));
    match &error {
        object_store::Error::NotFound { .. } => said(SqlState::UndefinedFile),
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } if remote => {
            refused(&error, what)
        }
        object_store::Error::PermissionDenied { .. } => said(SqlState::InsufficientPrivilege),
        _ if remote => {
            said(SqlState::IoError).with_hint("Check s3.endpoint and s3.region, and that the server can reach it.")
        }
        _ => said(SqlState::IoError),
    }
}

fn refused(error: &object_store::Error, what: &str) -> Error {
    Error::new(SqlState::InsufficientPrivilege, format!("cannot use \"{what}\": the store refuses it"))
        .with_detail(error.to_string())
        .with_hint(
            "Check s3.access_key_id and s3.secret_access_key (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the \
             server's environment), and what they may do there.",
        )
}
