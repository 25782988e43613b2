// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {TestToken} from "../../src/TestToken.sol";
import {Actors} from "./Actors.sol";

/// @notice They do whatever they like, in any order, at any time.
contract Handler is Actors {
    constructor(Escrow escrow, TestToken token) Actors(escrow, token) {}

    // ----------------------------------------------------------------------------- the accounts

    function deposit(uint256 seed, uint64 amount) external step(seed) {
        amount %= 1e9;
        bytes memory data = seed % 2 == 0
            ? abi.encodeCall(ESCROW.deposit, (address(TOKEN), amount))
            : abi.encodeCall(ESCROW.depositFor, (address(TOKEN), accounts(seed % 3), amount));
        if (_try("deposit", accounts(seed % 4), data)) deposited += amount;
    }

    function withdraw(uint256 seed, uint64 amount) external step(seed) {
        amount %= 1e9;
        bytes memory data = abi.encodeCall(ESCROW.withdraw, (address(TOKEN), amount));
        if (_try("withdraw", accounts(seed % 4), data)) withdrawn += amount;
    }

    function restake(uint256 seed, uint64 amount) external step(seed) {
        amount %= 1e9;
        bytes memory data = seed % 3 == 0
            ? abi.encodeCall(ESCROW.stake, (address(TOKEN), amount))
            : seed % 3 == 1
                ? abi.encodeCall(ESCROW.unstake, (address(TOKEN), amount))
                : abi.encodeCall(ESCROW.completeUnstake, (address(TOKEN)));
        _try("restake", accounts(seed % 4), data);
    }

    /// @dev Sometimes none, sometimes enough for one, sometimes without end.
    function authorise(uint256 seed) external step(seed) {
        uint256 who = seed % 4;
        uint128 allowance = (seed >> 3) % 3 == 0 ? type(uint128).max : uint128((seed >> 8) % 3e9);
        bytes memory data = (seed >> 5) % 6 == 0
            ? abi.encodeCall(ESCROW.revoke, (signers(who), address(TOKEN)))
            : abi.encodeCall(
                ESCROW.authorise, (signers(who), address(TOKEN), allowance, uint40(_now + 5000))
            );
        _try("authorise", accounts(who), data);
    }

    // ---------------------------------------------------------------------------- the agreements

    function _draft(uint256 seed, uint256 units, uint64 money)
        private
        view
        returns (IEscrowTypes.Terms memory terms)
    {
        uint256 r = seed % 2;
        uint256 p = 2 + (seed >> 1) % 2;
        terms.parties = IEscrowTypes.Parties(
            accounts(r),
            accounts(p),
            signers(r),
            signers(p),
            address(TOKEN),
            seed % 5 < 2 ? ARBITER : address(0)
        );
        terms.money = IEscrowTypes.Money(
            uint96(money % 1e9),
            uint96((money >> 7) % 1e9),
            uint96((money >> 3) % 1e7),
            uint96(money % 1e6),
            uint16(seed % 10_001),
            uint16((seed >> 9) % 10_001),
            uint16((seed >> 17) % 10_001)
        );
        terms.timing =
            IEscrowTypes.Timing(uint40(_now), 3000, uint32(seed % 200), 100, 600, 500, 300);
        terms.units = units & (units >> 8) & (units >> 16) & (units >> 24) & (units >> 32);
        terms.salt = keccak256(abi.encode(seed, ids.length));
    }

    /// @dev By wallets, or by hot keys within what they were given.
    function _seal(IEscrowTypes.Terms memory terms, bytes32 id, uint256 seed)
        private
        pure
        returns (bytes memory a, bytes memory b)
    {
        IEscrowTypes.Parties memory p = terms.parties;
        a = _signBy(seed % 3 == 0 ? p.requesterSigner : p.requester, id);
        b = _signBy(seed % 7 < 3 ? p.providerSigner : p.provider, id);
    }

    function open(uint256 seed, uint256 units, uint64 money) external step(seed) {
        IEscrowTypes.Terms memory terms = _draft(seed, units, money);
        bytes32 id = ESCROW.agreementId(terms);
        (bytes memory a, bytes memory b) = _seal(terms, id, seed >> 40);
        if (_try("open", ANYONE, abi.encodeCall(ESCROW.open, (terms, a, b)))) {
            _terms.push(terms);
            ids.push(id);
            if ((seed >> 40) % 3 == 0) ++calls["open by operator"];
        }
    }

    function openMany(uint256 seed, uint256 units, uint64 money) external step(seed) {
        uint256 n = 2 + seed % 2;
        IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](n);
        bytes[] memory a = new bytes[](n);
        bytes[] memory b = new bytes[](n);
        bytes32[] memory new_ = new bytes32[](n);
        for (uint256 i; i < n; ++i) {
            terms[i] = _draft(seed + 2 * i, units << (i * 3), money);
            new_[i] = ESCROW.agreementId(terms[i]);
            (a[i], b[i]) = _seal(terms[i], new_[i], seed >> 40);
        }
        if (_try("openMany", ANYONE, abi.encodeCall(ESCROW.openMany, (terms, a, b)))) {
            for (uint256 i; i < n; ++i) {
                _terms.push(terms[i]);
                ids.push(new_[i]);
            }
        }
    }

    function cancel(uint256 seed) external step(seed) {
        IEscrowTypes.Terms memory terms = _draft(seed, seed, uint64(seed));
        bytes32 id = ESCROW.agreementId(terms);
        if (_try("cancel", terms.parties.provider, abi.encodeCall(ESCROW.cancel, (terms)))) {
            _terms.push(terms);
            ids.push(id);
        }
    }

    function claim(uint256 seed, uint64 amount, bool last) external step(seed) onceOpened {
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Voucher memory voucher = IEscrowTypes.Voucher(id, amount % 2e9, 0, last);
        bytes memory signature =
            _signBy(terms.parties.requesterSigner, ESCROW.voucherDigest(voucher));
        bool done = seed % 4 == 0
            ? _try(
                "settle",
                terms.parties.provider,
                abi.encodeCall(ESCROW.settle, (terms, voucher, signature))
            )
            : _try("claim", ANYONE, abi.encodeCall(ESCROW.claim, (terms, voucher, signature)));
        if (done && voucher.amount > bestVoucher[id]) bestVoucher[id] = voucher.amount;
    }

    function settleMany(uint256 seed, uint64 amount) external step(seed) onceOpened {
        IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](3);
        IEscrowTypes.Voucher[] memory vouchers = new IEscrowTypes.Voucher[](3);
        bytes[] memory signatures = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            bytes32 id;
            (terms[i], id) = _pick(seed >> (16 * i));
            vouchers[i] = IEscrowTypes.Voucher(id, amount % 2e9, 0, i == 1);
            signatures[i] =
                _signBy(terms[i].parties.requesterSigner, ESCROW.voucherDigest(vouchers[i]));
            if (vouchers[i].amount > bestVoucher[id]) bestVoucher[id] = vouchers[i].amount;
        }
        bytes memory data = abi.encodeCall(ESCROW.settleMany, (terms, vouchers, signatures));
        _try("settleMany", terms[0].parties.providerSigner, data);
    }

    function claimOffline(uint256 seed, uint32 metered) external step(seed) onceOpened {
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Heartbeat memory beat =
            IEscrowTypes.Heartbeat(id, 1, uint40(_now - seed % 100), metered % 4000, 0, 0);
        bytes memory signature = _signBy(terms.parties.providerSigner, ESCROW.heartbeatDigest(beat));
        bytes memory data = abi.encodeCall(ESCROW.claimOffline, (terms, beat, signature));
        _try("claimOffline", ANYONE, data);
    }

    function extend(uint256 seed, uint32 amount) external step(seed) onceOpened {
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Extension memory extension =
            IEscrowTypes.Extension(id, amount, uint32(seed % 2 * (seed % 2000)));
        bytes32 digest = ESCROW.extensionDigest(extension);
        bytes memory a = _signBy(
            seed % 3 == 0 ? terms.parties.requesterSigner : terms.parties.requester, digest
        );
        bytes memory b = _signBy(terms.parties.providerSigner, digest);
        _try("extend", ANYONE, abi.encodeCall(ESCROW.extend, (terms, extension, a, b)));
    }

    function challenge(uint256 seed, uint48 nonce) external step(seed) onceOpened {
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Voucher memory voucher = IEscrowTypes.Voucher(id, type(uint96).max, 0, false);
        address by = seed % 3 == 0 ? terms.parties.requesterSigner : terms.parties.requester;
        bytes memory data = abi.encodeCall(ESCROW.challenge, (terms, voucher, "", nonce));
        if (_try("challenge", by, data)) bestVoucher[id] = type(uint96).max;
    }

    function answer(uint256 seed) external step(seed % 60) onceOpened {
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        (terms, id) = _newest(IEscrowTypes.Status.Challenged, terms, id);
        uint48 nonce = ESCROW.agreement(id).nonce;
        IEscrowTypes.Heartbeat memory beat =
            IEscrowTypes.Heartbeat(id, 1, uint40(_now), 0, nonce, 0);
        _try("answer", terms.parties.provider, abi.encodeCall(ESCROW.answer, (terms, beat, "")));
    }

    function equivocate(uint256 seed) external step(seed) onceOpened {
        if (seed % 8 != 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Heartbeat memory a = IEscrowTypes.Heartbeat(id, 1, uint40(_now), 0, 0, 0);
        IEscrowTypes.Heartbeat memory b = IEscrowTypes.Heartbeat(id, 1, uint40(_now), 1, 0, 0);
        bytes memory data = abi.encodeCall(ESCROW.slashEquivocation, (terms, a, "", b, ""));
        _try("equivocate", terms.parties.providerSigner, data);
    }

    /// @dev By wallets, also with a slash; by hot keys, which may then pay only what has accrued.
    function closeSigned(uint256 seed, uint64 amount) external step(seed) onceOpened {
        if (seed % 4 != 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed >> 2);
        uint96 paid = ESCROW.agreement(id).paid + amount % 1e6;
        uint96 slashed = seed % 3 == 0 ? uint96(amount % (terms.money.collateral + 1)) : 0;
        IEscrowTypes.Settlement memory settlement = IEscrowTypes.Settlement(id, paid, slashed);
        bytes32 digest = ESCROW.settlementDigest(settlement);
        IEscrowTypes.Parties memory p = terms.parties;
        bool hot = seed % 5 < 2;
        bytes memory a = _signBy(hot ? p.requesterSigner : p.requester, digest);
        bytes memory b = _signBy(hot ? p.providerSigner : p.provider, digest);
        bytes memory data = abi.encodeCall(ESCROW.closeSigned, (terms, settlement, a, b));
        if (_try("closeSigned", ANYONE, data)) bestVoucher[id] = type(uint96).max;
    }

    function close(uint256 seed) external step(seed) onceOpened {
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        uint256 what = (seed >> 8) % 8;
        if (what == 3) (terms,) = _newest(IEscrowTypes.Status.Challenged, terms, id);
        if (what > 5) (terms,) = _newest(IEscrowTypes.Status.Disputed, terms, id);
        IEscrowTypes.Parties memory p = terms.parties;
        if (what == 0) {
            _try("close", p.requester, abi.encodeCall(ESCROW.requesterClose, (terms)));
        } else if (what == 1) {
            _try("close", p.providerSigner, abi.encodeCall(ESCROW.providerClose, (terms)));
        } else if (what == 2) {
            if ((seed >> 16) % 3 == 0) vm.warp(_now += 800); // past a claim window
            _try("finalize", ANYONE, abi.encodeCall(ESCROW.finalize, (terms)));
        } else if (what == 3) {
            _try("slash", ANYONE, abi.encodeCall(ESCROW.slash, (terms)));
        } else if (what < 6) {
            _try("dispute", p.requester, abi.encodeCall(ESCROW.dispute, (terms)));
        } else {
            uint96 slashed = uint96(seed % (uint256(terms.money.collateral) + 1));
            if ((seed >> 16) % 3 == 0) slashed = 0;
            _try("rule", p.arbiter, abi.encodeCall(ESCROW.rule, (terms, slashed)));
        }
    }
}
