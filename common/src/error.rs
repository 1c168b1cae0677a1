//! The one error type: what went wrong in words, and the SQLSTATE that a client acts upon.

use std::fmt;

use datafusion::error::DataFusionError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is, named as in Postgres' appendix of error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlState {
    ConnectionException,
    ProtocolViolation,
    FeatureNotSupported,
    InvalidTransactionState,
    ActiveSqlTransaction,
    NoActiveSqlTransaction,
    InFailedSqlTransaction,
    ReadOnlySqlTransaction,
    InvalidSavepoint,
    InvalidAuthorization,
    InvalidPassword,
    CardinalityViolation,
    DataException,
    StringDataRightTruncation,
    SubstringError,
    NumericValueOutOfRange,
    InvalidTextRepresentation,
    InvalidBinaryRepresentation,
    BadCopyFileFormat,
    InvalidDatetimeFormat,
    DatetimeFieldOverflow,
    DivisionByZero,
    SequenceLimitExceeded,
    InvalidOffset,
    InvalidLimit,
    InvalidRegularExpression,
    InvalidLogArgument,
    InvalidPowerArgument,
    InvalidParameterValue,
    ArraySubscriptError,
    NotNullViolation,
    ForeignKeyViolation,
    UniqueViolation,
    CheckViolation,
    SerializationFailure,
    StatementCompletionUnknown,
    DependentObjectsStillExist,
    InsufficientPrivilege,
    GeneratedAlways,
    SyntaxError,
    InvalidName,
    ReservedName,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedTable,
    UndefinedParameter,
    UndefinedObject,
    UndefinedSchema,
    UndefinedDatabase,
    UndefinedCursor,
    UndefinedPreparedStatement,
    DuplicateColumn,
    DuplicateAlias,
    DuplicateTable,
    DuplicateSchema,
    DuplicateObject,
    DuplicateCursor,
    InvalidCursorDefinition,
    DuplicatePreparedStatement,
    AmbiguousColumn,
    AmbiguousFunction,
    GroupingError,
    WindowingError,
    DatatypeMismatch,
    CannotCoerce,
    WrongObjectType,
    InvalidColumnReference,
    InvalidColumnDefinition,
    InvalidTableDefinition,
    InvalidObjectDefinition,
    IndeterminateDatatype,
    ObjectNotInPrerequisiteState,
    ObjectInUse,
    CantChangeRuntimeParam,
    ProgramLimitExceeded,
    OutOfMemory,
    DiskFull,
    TooManyConnections,
    ConfigurationLimitExceeded,
    QueryCanceled,
    AdminShutdown,
    CannotConnectNow,
    IoError,
    UndefinedFile,
    LockFileExists,
    DataCorrupted,
    Internal,
    /// Another system's, which none of the above is.
    Other(&'static str),
}

impl SqlState {
    /// The five characters on the wire.
    pub fn code(self) -> &'static str {
        use SqlState::*;
        match self {
            ConnectionException => "08000",
            ProtocolViolation => "08P01",
            FeatureNotSupported => "0A000",
            InvalidTransactionState => "25000",
            ActiveSqlTransaction => "25001",
            ReadOnlySqlTransaction => "25006",
            NoActiveSqlTransaction => "25P01",
            InFailedSqlTransaction => "25P02",
            InvalidSavepoint => "3B001",
            InvalidAuthorization => "28000",
            InvalidPassword => "28P01",
            CardinalityViolation => "21000",
            DataException => "22000",
            StringDataRightTruncation => "22001",
            SubstringError => "22011",
            NumericValueOutOfRange => "22003",
            InvalidTextRepresentation => "22P02",
            InvalidBinaryRepresentation => "22P03",
            BadCopyFileFormat => "22P04",
            InvalidDatetimeFormat => "22007",
            DatetimeFieldOverflow => "22008",
            DivisionByZero => "22012",
            SequenceLimitExceeded => "2200H",
            InvalidOffset => "2201X",
            InvalidLimit => "2201W",
            InvalidRegularExpression => "2201B",
            InvalidLogArgument => "2201E",
            InvalidPowerArgument => "2201F",
            InvalidParameterValue => "22023",
            ArraySubscriptError => "2202E",
            NotNullViolation => "23502",
            ForeignKeyViolation => "23503",
            UniqueViolation => "23505",
            CheckViolation => "23514",
            SerializationFailure => "40001",
            StatementCompletionUnknown => "40003",
            DependentObjectsStillExist => "2BP01",
            InsufficientPrivilege => "42501",
            GeneratedAlways => "428C9",
            SyntaxError => "42601",
            InvalidName => "42602",
            ReservedName => "42939",
            UndefinedColumn => "42703",
            UndefinedFunction => "42883",
            UndefinedTable => "42P01",
            UndefinedParameter => "42P02",
            UndefinedObject => "42704",
            UndefinedSchema => "3F000",
            UndefinedDatabase => "3D000",
            UndefinedCursor => "34000",
            UndefinedPreparedStatement => "26000",
            DuplicateColumn => "42701",
            DuplicateAlias => "42712",
            DuplicateTable => "42P07",
            DuplicateSchema => "42P06",
            DuplicateObject => "42710",
            DuplicateCursor => "42P03",
            InvalidCursorDefinition => "42P11",
            DuplicatePreparedStatement => "42P05",
            AmbiguousColumn => "42702",
            AmbiguousFunction => "42725",
            GroupingError => "42803",
            WindowingError => "42P20",
            DatatypeMismatch => "42804",
            CannotCoerce => "42846",
            WrongObjectType => "42809",
            InvalidColumnReference => "42P10",
            InvalidColumnDefinition => "42611",
            InvalidTableDefinition => "42P16",
            InvalidObjectDefinition => "42P17",
            IndeterminateDatatype => "42P18",
            ObjectNotInPrerequisiteState => "55000",
            ObjectInUse => "55006",
            CantChangeRuntimeParam => "55P02",
            ProgramLimitExceeded => "54000",
            OutOfMemory => "53200",
            DiskFull => "53100",
            TooManyConnections => "53300",
            ConfigurationLimitExceeded => "53400",
            QueryCanceled => "57014",
            AdminShutdown => "57P01",
            CannotConnectNow => "57P03",
            IoError => "58030",
            UndefinedFile => "58P01",
            LockFileExists => "F0001",
            DataCorrupted => "XX001",
            Internal => "XX000",
            Other(code) => code,
        }
    }
}

/// An error a user sees. Boxed inside, so that a `Result` stays small.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    state: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    /// 1-based position in the statement, in characters, as Postgres counts.
    position: Option<usize>,
    /// Line and column in the statement's text, both 1-based, until someone who has the text makes a position of it.
    location: Option<(u64, u64)>,
}

impl Error {
    pub fn new(state: SqlState, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            state,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            location: None,
        }))
    }

    /// A fault of ours: something that cannot happen has happened.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(SqlState::Internal, message)
    }

    /// `what` is not something Tidemark can do; say what would work in a hint.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(SqlState::FeatureNotSupported, message)
    }

    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(SqlState::SyntaxError, message)
    }

    /// A WITH option, setting or argument with a value that cannot be used.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(SqlState::InvalidParameterValue, message)
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// `position`: 1-based, in characters of the statement's text.
    #[must_use]
    pub fn with_position(mut self, position: usize) -> Self {
        self.0.position = Some(position);
        self
    }

    #[must_use]
    pub fn with_location(mut self, line: u64, column: u64) -> Self {
        self.0.location = Some((line, column));
        self
    }

    /// Puts `context` before the message: "context: message".
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    pub fn state(&self) -> SqlState {
        self.0.state
    }

    pub fn code(&self) -> &'static str {
        self.0.state.code()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn position(&self) -> Option<usize> {
        self.0.position
    }

    pub fn location(&self) -> Option<(u64, u64)> {
        self.0.location
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.code())?;
        if let Some(detail) = &self.0.detail {
            write!(f, " DETAIL: {detail}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, " HINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// An [`Error`] travels through DataFusion as `External` and comes out again as it went in.
impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<datafusion::arrow::error::ArrowError> for Error {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let state = match error.kind() {
            std::io::ErrorKind::NotFound => SqlState::UndefinedFile,
            std::io::ErrorKind::StorageFull => SqlState::DiskFull,
            std::io::ErrorKind::PermissionDenied => SqlState::InsufficientPrivilege,
            _ => SqlState::IoError,
        };
        Error::new(state, error.to_string())
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        crate::error_datafusion::translate(error)
    }
}
