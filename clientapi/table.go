package clientapi

// table lists every endpoint that is served: path as in the specification, who may ask, which
// rate limit counts, who answers. A test compares it with the specification.
func (h *Handler) table() []route {
	const v3 = "/_matrix/client/v3"
	const room = v3 + "/rooms/{roomId}"
	const admin = "/_matrix/client/v1/admin"
	const user = v3 + "/user/{userId}"
	return []route{
		{"GET", "/_matrix/client/versions", maybeUser, limitNone, h.versions},
		{"GET", "/.well-known/matrix/client", anyone, limitNone, h.wellKnownClient},
		{"GET", "/.well-known/matrix/server", anyone, limitNone, h.wellKnownServer},

		{"GET", v3 + "/login", anyone, limitNone, h.loginFlows},
		{"POST", v3 + "/login", anyone, limitLogin, h.login},
		{"POST", "/_matrix/client/v1/login/get_token", userToken, limitLogin, h.loginToken},
		{"POST", v3 + "/refresh", anyone, limitLogin, h.refresh},
		{"POST", v3 + "/logout", lockedToken, limitNone, h.logout},
		{"POST", v3 + "/logout/all", lockedToken, limitNone, h.logoutAll},
		{"POST", v3 + "/register", anyone, limitLogin, h.register},
		{"GET", v3 + "/register/available", anyone, limitLogin, h.registerAvailable},
		{"GET", "/_matrix/client/v1/register/m.login.registration_token/validity", anyone, limitLogin, h.registrationTokenValidity},
		{"GET", "/_synapse/admin/v1/register", anyone, limitLogin, h.sharedNonce},
		{"POST", "/_synapse/admin/v1/register", anyone, limitLogin, h.sharedRegister},
		{"GET", v3 + "/account/whoami", guestToken, limitRead, h.whoami},
		{"POST", v3 + "/account/password", userToken, limitLogin, h.changePassword},
		{"POST", v3 + "/account/deactivate", userToken, limitLogin, h.deactivate},
		{"GET", v3 + "/capabilities", guestToken, limitRead, h.capabilities},

		{"GET", v3 + "/devices", guestToken, limitRead, h.devices},
		{"GET", v3 + "/devices/{deviceId}", guestToken, limitRead, h.device},
		{"PUT", v3 + "/devices/{deviceId}", guestToken, limitLight, h.renameDevice},
		{"DELETE", v3 + "/devices/{deviceId}", userToken, limitLogin, h.deleteDevice},
		{"POST", v3 + "/delete_devices", userToken, limitLogin, h.deleteDevices},

		{"GET", v3 + "/admin/whois/{userId}", userToken, limitRead, h.whois},
		{"GET", admin + "/lock/{userId}", userToken, limitRead, h.standing(locking)},
		{"PUT", admin + "/lock/{userId}", userToken, limitLight, h.setStanding(locking)},
		{"GET", admin + "/suspend/{userId}", userToken, limitRead, h.standing(suspending)},
		{"PUT", admin + "/suspend/{userId}", userToken, limitLight, h.setStanding(suspending)},

		{"GET", v3 + "/profile/{userId}", anyone, limitRead, h.profile},
		{"GET", v3 + "/profile/{userId}/{keyName}", anyone, limitRead, h.profileField},
		{"PUT", v3 + "/profile/{userId}/{keyName}", activeGuest, limitLight, h.setProfileField},
		{"DELETE", v3 + "/profile/{userId}/{keyName}", activeGuest, limitLight, h.deleteProfileField},
		{"GET", user + "/account_data/{type}", userToken, limitRead, h.accountData},
		{"PUT", user + "/account_data/{type}", userToken, limitLight, h.putAccountData},
		{"GET", user + "/rooms/{roomId}/account_data/{type}", userToken, limitRead, h.accountData},
		{"PUT", user + "/rooms/{roomId}/account_data/{type}", userToken, limitLight, h.putAccountData},
		{"POST", user + "/filter", guestToken, limitLight, h.createFilter},
		{"GET", user + "/filter/{filterId}", guestToken, limitRead, h.filter},

		{"GET", v3 + "/directory/room/{roomAlias}", anyone, limitRead, h.alias},
		{"PUT", v3 + "/directory/room/{roomAlias}", activeToken, limitLight, h.putAlias},
		{"DELETE", v3 + "/directory/room/{roomAlias}", activeToken, limitLight, h.deleteAlias},

		{"POST", v3 + "/createRoom", activeToken, limitHeavy, h.createRoom},
		{"POST", v3 + "/join/{roomIdOrAlias}", activeGuest, limitHeavy, h.joinRoomOrAlias},
		{"POST", room + "/join", activeGuest, limitHeavy, h.joinRoom},
		{"POST", v3 + "/knock/{roomIdOrAlias}", activeToken, limitHeavy, h.knock},
		{"POST", room + "/forget", userToken, limitLight, h.forget},
		{"POST", room + "/leave", guestToken, limitLight, h.leaveRoom},
		{"POST", room + "/invite", activeToken, limitHeavy, h.invite},
		{"POST", room + "/kick", activeToken, limitLight, moderate(h.server.Rooms.Kick)},
		{"POST", room + "/ban", activeToken, limitLight, moderate(h.server.Rooms.Ban)},
		{"POST", room + "/unban", activeToken, limitLight, moderate(h.server.Rooms.Unban)},
		{"PUT", room + "/send/{eventType}/{txnId}", activeGuest, limitSend, h.sendEvent},
		{"PUT", room + "/state/{eventType}/{stateKey}", activeGuest, limitSend, h.setState},
		{"PUT", room + "/redact/{eventId}/{txnId}", userToken, limitSend, h.redact},

		{"GET", room + "/state", guestToken, limitRead, h.roomState},
		{"GET", room + "/state/{eventType}/{stateKey}", guestToken, limitRead, h.stateEvent},
		{"GET", room + "/event/{eventId}", guestToken, limitRead, h.event},
		{"GET", room + "/context/{eventId}", guestToken, limitRead, h.eventContext},
		{"GET", room + "/messages", guestToken, limitRead, h.messages},
		{"GET", room + "/members", guestToken, limitRead, h.members},
		{"GET", room + "/joined_members", userToken, limitRead, h.joinedMembers},
		{"GET", room + "/aliases", userToken, limitRead, h.roomAliases},
		{"GET", v3 + "/joined_rooms", userToken, limitRead, h.joinedRooms},
		{"GET", v3 + "/sync", guestToken, limitNone, h.sync},
	}
}
