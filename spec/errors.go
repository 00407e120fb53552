package spec

import (
	"errors"
	"fmt"
	"time"
)

// Code is a machine-readable error code of the protocol.
// Spec: client-server-api#standard-error-response
type Code string

// Every error code of the specification. The comment says when to use it.
const (
	// CodeForbidden: the asker may not do this, or the login failed.
	CodeForbidden Code = "M_FORBIDDEN"
	// CodeUnknownToken: the access or refresh token is not known (any more).
	CodeUnknownToken Code = "M_UNKNOWN_TOKEN"
	// CodeMissingToken: the request carries no token but needs one.
	CodeMissingToken Code = "M_MISSING_TOKEN"
	// CodeUserLocked: the account is locked; clients keep their session data.
	CodeUserLocked Code = "M_USER_LOCKED"
	// CodeUserSuspended: the account is suspended and may do little.
	CodeUserSuspended Code = "M_USER_SUSPENDED"
	// CodeBadJSON: JSON, but not of the shape that is needed.
	CodeBadJSON Code = "M_BAD_JSON"
	// CodeNotJSON: no JSON at all.
	CodeNotJSON Code = "M_NOT_JSON"
	// CodeNotFound: the thing asked for is not here (the endpoint is).
	CodeNotFound Code = "M_NOT_FOUND"
	// CodeLimitExceeded: too many requests; RetryAfter says how long to wait.
	CodeLimitExceeded Code = "M_LIMIT_EXCEEDED"
	// CodeResourceLimitExceeded: the homeserver as a whole is at a limit; the
	// body needs "admin_contact".
	CodeResourceLimitExceeded Code = "M_RESOURCE_LIMIT_EXCEEDED"
	// CodeUserLimitExceeded: a limit of this account; the body needs "info_uri".
	CodeUserLimitExceeded Code = "M_USER_LIMIT_EXCEEDED"
	// CodeUnrecognized: no such endpoint (404) or no such method on it (405).
	CodeUnrecognized Code = "M_UNRECOGNIZED"
	// CodeUnknown: anything else; for errors of our own, status 500.
	CodeUnknown Code = "M_UNKNOWN"
	// CodeUnknownDevice: an application service named a device that is not the user's.
	CodeUnknownDevice Code = "M_UNKNOWN_DEVICE"
	// CodeUnauthorized: the request is not properly authorised, as a failed login.
	CodeUnauthorized Code = "M_UNAUTHORIZED"

	// CodeBadAlias: an alias in m.room.canonical_alias does not point to the room.
	CodeBadAlias Code = "M_BAD_ALIAS"
	// CodeBadState: the change does not fit the state, as an unban of one not banned.
	CodeBadState Code = "M_BAD_STATE"
	// CodeBadStatus: the application service answered a ping with an error.
	CodeBadStatus Code = "M_BAD_STATUS"
	// CodeCannotLeaveServerNoticeRoom: invitations of server notices cannot be rejected.
	CodeCannotLeaveServerNoticeRoom Code = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	// CodeCannotOverwriteMedia: the media ID has content already.
	CodeCannotOverwriteMedia Code = "M_CANNOT_OVERWRITE_MEDIA"
	// CodeCaptchaInvalid: the captcha was not solved.
	CodeCaptchaInvalid Code = "M_CAPTCHA_INVALID"
	// CodeCaptchaNeeded: the request needs a captcha.
	CodeCaptchaNeeded Code = "M_CAPTCHA_NEEDED"
	// CodeConnectionFailed: the application service could not be reached for a ping.
	CodeConnectionFailed Code = "M_CONNECTION_FAILED"
	// CodeConnectionTimeout: the application service did not answer a ping in time.
	CodeConnectionTimeout Code = "M_CONNECTION_TIMEOUT"
	// CodeDuplicateAnnotation: the same user has annotated the event so before.
	CodeDuplicateAnnotation Code = "M_DUPLICATE_ANNOTATION"
	// CodeExclusive: the name belongs to an application service, or is outside of its namespace.
	CodeExclusive Code = "M_EXCLUSIVE"
	// CodeAppserviceLoginUnsupported: application services cannot log in here.
	CodeAppserviceLoginUnsupported Code = "M_APPSERVICE_LOGIN_UNSUPPORTED"
	// CodeGuestAccessForbidden: guests may not do this.
	CodeGuestAccessForbidden Code = "M_GUEST_ACCESS_FORBIDDEN"
	// CodeIncompatibleRoomVersion: the other side does not support the room's
	// version; the body needs "room_version".
	CodeIncompatibleRoomVersion Code = "M_INCOMPATIBLE_ROOM_VERSION"
	// CodeInvalidParam: a parameter of the right kind with a bad value.
	CodeInvalidParam Code = "M_INVALID_PARAM"
	// CodeInvalidRoomState: the initial state given to createRoom is not valid.
	CodeInvalidRoomState Code = "M_INVALID_ROOM_STATE"
	// CodeInvalidSignature: a signature on an uploaded key is not good.
	CodeInvalidSignature Code = "M_INVALID_SIGNATURE"
	// CodeInvalidUsername: the name asked for is no valid localpart.
	CodeInvalidUsername Code = "M_INVALID_USERNAME"
	// CodeInviteBlocked: the invited user does not take invitations.
	CodeInviteBlocked Code = "M_INVITE_BLOCKED"
	// CodeKeyTooLarge: the name of a profile field exceeds 255 bytes.
	CodeKeyTooLarge Code = "M_KEY_TOO_LARGE"
	// CodeMissingParam: a parameter is missing.
	CodeMissingParam Code = "M_MISSING_PARAM"
	// CodeNotYetUploaded: the media ID is reserved, the content not here yet.
	CodeNotYetUploaded Code = "M_NOT_YET_UPLOADED"
	// CodeProfileTooLarge: the profile would exceed 64 KiB.
	CodeProfileTooLarge Code = "M_PROFILE_TOO_LARGE"
	// CodeRoomInUse: the alias asked for is taken.
	CodeRoomInUse Code = "M_ROOM_IN_USE"
	// CodeServerNotTrusted: a server named in the request is not trusted.
	CodeServerNotTrusted Code = "M_SERVER_NOT_TRUSTED"
	// CodeTermsNotSigned: terms of service must be accepted first.
	CodeTermsNotSigned Code = "M_TERMS_NOT_SIGNED"
	// CodeThreepidAuthFailed: the third-party identifier could not be proved.
	CodeThreepidAuthFailed Code = "M_THREEPID_AUTH_FAILED"
	// CodeThreepidDenied: this third-party identifier is not permitted here.
	CodeThreepidDenied Code = "M_THREEPID_DENIED"
	// CodeThreepidInUse: the third-party identifier belongs to somebody.
	CodeThreepidInUse Code = "M_THREEPID_IN_USE"
	// CodeThreepidMediumNotSupported: no such medium here.
	CodeThreepidMediumNotSupported Code = "M_THREEPID_MEDIUM_NOT_SUPPORTED"
	// CodeThreepidNotFound: no such third-party identifier.
	CodeThreepidNotFound Code = "M_THREEPID_NOT_FOUND"
	// CodeTokenIncorrect: the token entered to validate a session is wrong.
	CodeTokenIncorrect Code = "M_TOKEN_INCORRECT"
	// CodeTooLarge: the request or the thing is too large.
	CodeTooLarge Code = "M_TOO_LARGE"
	// CodeUnableToAuthoriseJoin: this server cannot check the join's conditions.
	CodeUnableToAuthoriseJoin Code = "M_UNABLE_TO_AUTHORISE_JOIN"
	// CodeUnableToGrantJoin: the conditions hold, but no user here may invite.
	CodeUnableToGrantJoin Code = "M_UNABLE_TO_GRANT_JOIN"
	// CodeUnsupportedRoomVersion: rooms of that version cannot be made here.
	CodeUnsupportedRoomVersion Code = "M_UNSUPPORTED_ROOM_VERSION"
	// CodeURLNotSet: the application service has no URL to ping.
	CodeURLNotSet Code = "M_URL_NOT_SET"
	// CodeUserDeactivated: the account is no more.
	CodeUserDeactivated Code = "M_USER_DEACTIVATED"
	// CodeUserInUse: the name is taken.
	CodeUserInUse Code = "M_USER_IN_USE"
	// CodeWeakPassword: the password does not meet the server's demands.
	CodeWeakPassword Code = "M_WEAK_PASSWORD"
	// CodeWrongRoomKeysVersion: not the current key backup; the body needs
	// "current_version".
	CodeWrongRoomKeysVersion Code = "M_WRONG_ROOM_KEYS_VERSION"

	// The codes below are of the identity service; a homeserver passes them on.

	// CodeDestinationRejected: no SMS can be sent to that country.
	CodeDestinationRejected Code = "M_DESTINATION_REJECTED"
	// CodeEmailSendError: the mail could not be sent.
	CodeEmailSendError Code = "M_EMAIL_SEND_ERROR"
	// CodeInvalidAddress: not a valid phone number or other address.
	CodeInvalidAddress Code = "M_INVALID_ADDRESS"
	// CodeInvalidEmail: not a valid mail address.
	CodeInvalidEmail Code = "M_INVALID_EMAIL"
	// CodeInvalidPepper: the pepper of a hashed look-up has changed.
	CodeInvalidPepper Code = "M_INVALID_PEPPER"
	// CodeMissingParams: the identity service's spelling of CodeMissingParam.
	CodeMissingParams Code = "M_MISSING_PARAMS"
	// CodeNoValidSession: no such validation session.
	CodeNoValidSession Code = "M_NO_VALID_SESSION"
	// CodeSendError: the notification could not be sent.
	CodeSendError Code = "M_SEND_ERROR"
	// CodeSessionExpired: the validation session is too old.
	CodeSessionExpired Code = "M_SESSION_EXPIRED"
	// CodeSessionNotValidated: the validation session is not complete.
	CodeSessionNotValidated Code = "M_SESSION_NOT_VALIDATED"
)

// Status returns the HTTP status that usually goes with the code: 400 where the
// table below says nothing. Endpoints that differ set Error.Status.
func (c Code) Status() int {
	switch c {
	case CodeUnknownToken, CodeMissingToken, CodeUserLocked, CodeUnauthorized:
		return 401
	case CodeForbidden, CodeUserSuspended, CodeResourceLimitExceeded, CodeUserLimitExceeded,
		CodeCannotLeaveServerNoticeRoom, CodeGuestAccessForbidden, CodeInviteBlocked,
		CodeTermsNotSigned, CodeThreepidDenied, CodeUserDeactivated, CodeWrongRoomKeysVersion:
		return 403
	case CodeNotFound, CodeUnrecognized:
		return 404
	case CodeCannotOverwriteMedia:
		return 409
	case CodeTooLarge:
		return 413
	case CodeLimitExceeded:
		return 429
	case CodeUnknown:
		return 500
	case CodeBadStatus, CodeConnectionFailed:
		return 502
	case CodeConnectionTimeout, CodeNotYetUploaded:
		return 504
	}
	return 400
}

// Error is the one error meant for a client or a peer. Any other error that
// reaches the edge is a 500 with CodeUnknown.
type Error struct {
	Code Code
	Msg  string // public
	Err  error  // the cause, only logged; may be nil
	// RetryAfter is how long the asker should wait; 0 says nothing.
	RetryAfter time.Duration
	// Status is the HTTP status; 0 means the one of Code.
	Status int
	// Fields are further members of the JSON body, "room_version" for example.
	Fields map[string]any
}

// Errorf makes an Error; cause may be nil.
func Errorf(code Code, cause error, format string, a ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, a...), Err: cause}
}

// Error gives code, message and cause, for logs.
func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Code) + ": " + e.Msg
	}
	return string(e.Code) + ": " + e.Msg + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// HTTPStatus is Status, or that of the code where Status is 0.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	return e.Code.Status()
}

// CodeOf returns the code of the *Error in err's chain and CodeUnknown where
// there is none; nil has the empty code.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return CodeUnknown
}

// AuthError says which authorization rule refused an event. Rule is numbered as
// in the specification of the event's room version, for example "5.3.2".
type AuthError struct {
	Event        EventID
	Rule, Reason string
}

func (e *AuthError) Error() string {
	return fmt.Sprintf("event %s refused by rule %s: %s", e.Event, e.Rule, e.Reason)
}
