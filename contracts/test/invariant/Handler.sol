// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {TestToken} from "../../src/TestToken.sol";

/// @notice Two requesters and two providers do whatever they like, in any order, at any time.
contract Handler is Test {
    Escrow public immutable ESCROW;
    TestToken public immutable TOKEN;
    uint256[2] public requesterKeys = [0xA1, 0xA2];
    uint256[2] public providerKeys = [0xB1, 0xB2];

    IEscrowTypes.Terms[] internal _terms;
    bytes32[] public ids;
    mapping(bytes32 => uint256) public paidBefore;
    mapping(bytes32 => uint256) public bestVoucher;
    mapping(bytes32 => bool) public ended;
    mapping(string => uint256) public calls;
    uint256 public lowered;
    uint256 public reopened;
    uint256 internal _now;

    constructor(Escrow escrow, TestToken token) {
        (ESCROW, TOKEN) = (escrow, token);
        _now = block.timestamp;
        for (uint256 i; i < 4; ++i) {
            address account = accounts(i);
            token.mint(account, 1e12);
            vm.startPrank(account);
            token.approve(address(escrow), type(uint256).max);
            escrow.deposit(address(token), 5e11);
            escrow.stake(address(token), 2e11);
            vm.stopPrank();
        }
    }

    function accounts(uint256 i) public view returns (address) {
        return vm.addr(i < 2 ? requesterKeys[i] : providerKeys[i - 2]);
    }

    function count() public view returns (uint256) {
        return ids.length;
    }

    function termsAt(uint256 i) public view returns (IEscrowTypes.Terms memory) {
        return _terms[i];
    }

    /// @dev Time only moves by steps that make windows matter.
    modifier step(uint256 seed) {
        _now += seed % 4 == 0 ? seed % 400 : seed % 20;
        vm.warp(_now);
        _;
        for (uint256 i; i < ids.length; ++i) {
            bytes32 id = ids[i];
            IEscrowTypes.Agreement memory a = ESCROW.agreement(id);
            if (a.paid < paidBefore[id]) ++lowered;
            paidBefore[id] = a.paid;
            bool over = a.status >= IEscrowTypes.Status.Closed;
            if (ended[id] && !over) ++reopened;
            ended[id] = over;
        }
    }

    function _count(string memory name, bool done) private {
        if (done) ++calls[name];
    }

    function _sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function _pick(uint256 seed)
        private
        view
        returns (IEscrowTypes.Terms memory terms, bytes32 id)
    {
        uint256 i = seed % ids.length;
        // Mostly the newest, so that long runs do not only meet closed agreements.
        if (seed % 3 != 0) i = ids.length - 1 - (seed % (ids.length < 4 ? ids.length : 4));
        return (_terms[i], ids[i]);
    }

    function _keyOf(address account) private view returns (uint256) {
        for (uint256 i; i < 2; ++i) {
            if (vm.addr(requesterKeys[i]) == account) return requesterKeys[i];
            if (vm.addr(providerKeys[i]) == account) return providerKeys[i];
        }
        revert("nobody");
    }

    // ----------------------------------------------------------------------------- the accounts

    function deposit(uint256 seed, uint64 amount) external step(seed) {
        amount %= 1e9;
        vm.prank(accounts(seed % 4));
        (bool done,) =
            address(ESCROW).call(abi.encodeCall(ESCROW.deposit, (address(TOKEN), amount)));
        _count("deposit", done);
    }

    function withdraw(uint256 seed, uint64 amount) external step(seed) {
        amount %= 1e9;
        vm.prank(accounts(seed % 4));
        (bool done,) =
            address(ESCROW).call(abi.encodeCall(ESCROW.withdraw, (address(TOKEN), amount)));
        _count("withdraw", done);
    }

    function restake(uint256 seed, uint64 amount) external step(seed) {
        amount %= 1e9;
        bytes memory data = seed % 3 == 0
            ? abi.encodeCall(ESCROW.stake, (address(TOKEN), amount))
            : seed % 3 == 1
                ? abi.encodeCall(ESCROW.unstake, (address(TOKEN), amount))
                : abi.encodeCall(ESCROW.completeUnstake, (address(TOKEN)));
        vm.prank(accounts(seed % 4));
        (bool done,) = address(ESCROW).call(data);
        _count("restake", done);
    }

    // ---------------------------------------------------------------------------- the agreements

    function open(uint256 seed, uint256 units, uint64 money) external step(seed) {
        IEscrowTypes.Terms memory terms;
        terms.parties.requester = accounts(seed % 2);
        terms.parties.provider = accounts(2 + (seed >> 1) % 2);
        terms.parties.requesterSigner = terms.parties.requester;
        terms.parties.providerSigner = terms.parties.provider;
        terms.parties.token = address(TOKEN);
        terms.parties.arbiter = seed % 5 == 0 ? address(0xA7B) : address(0);
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
        terms.salt = bytes32(ids.length);
        bytes32 id = ESCROW.agreementId(terms);
        bytes memory a = _sign(_keyOf(terms.parties.requester), id);
        bytes memory b = _sign(_keyOf(terms.parties.provider), id);
        try ESCROW.open(terms, a, b) {
            _terms.push(terms);
            ids.push(id);
            _count("open", true);
        } catch {}
    }

    function claim(uint256 seed, uint64 amount, bool last) external step(seed) {
        if (ids.length == 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Voucher memory voucher = IEscrowTypes.Voucher(id, amount % 2e9, 0, last);
        bytes memory signature =
            _sign(_keyOf(terms.parties.requester), ESCROW.voucherDigest(voucher));
        bool settles = seed % 4 == 0;
        vm.prank(settles ? terms.parties.provider : address(0xA11CE));
        (bool done,) = address(ESCROW)
            .call(
                settles
                    ? abi.encodeCall(ESCROW.settle, (terms, voucher, signature))
                    : abi.encodeCall(ESCROW.claim, (terms, voucher, signature))
            );
        _count(settles ? "settle" : "claim", done);
        if (done && voucher.amount > bestVoucher[id]) bestVoucher[id] = voucher.amount;
    }

    function claimOffline(uint256 seed, uint32 metered) external step(seed) {
        if (ids.length == 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Heartbeat memory beat =
            IEscrowTypes.Heartbeat(id, 1, uint40(_now - seed % 100), metered % 4000, 0, 0);
        bytes memory signature = _sign(_keyOf(terms.parties.provider), ESCROW.heartbeatDigest(beat));
        (bool done,) =
            address(ESCROW).call(abi.encodeCall(ESCROW.claimOffline, (terms, beat, signature)));
        _count("claimOffline", done);
    }

    function extend(uint256 seed, uint32 amount) external step(seed) {
        if (ids.length == 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Extension memory extension =
            IEscrowTypes.Extension(id, amount, uint32(seed % 2 * (seed % 2000)));
        bytes memory signature =
            _sign(_keyOf(terms.parties.provider), ESCROW.extensionDigest(extension));
        vm.prank(terms.parties.requester);
        (bool done,) =
            address(ESCROW).call(abi.encodeCall(ESCROW.extend, (terms, extension, "", signature)));
        _count("extend", done);
    }

    function challenge(uint256 seed, uint48 nonce) external step(seed) {
        if (ids.length == 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Voucher memory voucher = IEscrowTypes.Voucher(id, type(uint96).max, 0, false);
        vm.prank(terms.parties.requester);
        (bool done,) =
            address(ESCROW).call(abi.encodeCall(ESCROW.challenge, (terms, voucher, "", nonce)));
        _count("challenge", done);
        if (done) bestVoucher[id] = type(uint96).max;
    }

    function answer(uint256 seed) external step(seed % 60) {
        if (ids.length == 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        for (uint256 i; i < ids.length; ++i) {
            if (ESCROW.agreement(ids[i]).status == IEscrowTypes.Status.Challenged) {
                (terms, id) = (_terms[i], ids[i]);
            }
        }
        uint48 nonce = ESCROW.agreement(id).nonce;
        IEscrowTypes.Heartbeat memory beat =
            IEscrowTypes.Heartbeat(id, 1, uint40(_now), 0, nonce, 0);
        vm.prank(terms.parties.provider);
        (bool done,) = address(ESCROW).call(abi.encodeCall(ESCROW.answer, (terms, beat, "")));
        _count("answer", done);
    }

    function equivocate(uint256 seed) external step(seed) {
        if (ids.length == 0 || seed % 8 != 0) return;
        (IEscrowTypes.Terms memory terms, bytes32 id) = _pick(seed);
        IEscrowTypes.Heartbeat memory a = IEscrowTypes.Heartbeat(id, 1, uint40(_now), 0, 0, 0);
        IEscrowTypes.Heartbeat memory b = IEscrowTypes.Heartbeat(id, 1, uint40(_now), 1, 0, 0);
        vm.prank(terms.parties.provider);
        (bool done,) =
            address(ESCROW).call(abi.encodeCall(ESCROW.slashEquivocation, (terms, a, "", b, "")));
        _count("equivocate", done);
    }

    function close(uint256 seed) external step(seed) {
        if (ids.length == 0) return;
        (IEscrowTypes.Terms memory terms,) = _pick(seed);
        uint256 what = (seed >> 8) % 6;
        bytes memory data;
        address by = address(0xA11CE);
        if (what == 0) {
            (by, data) = (terms.parties.requester, abi.encodeCall(ESCROW.requesterClose, (terms)));
        } else if (what == 1) {
            (by, data) = (terms.parties.provider, abi.encodeCall(ESCROW.providerClose, (terms)));
        } else if (what == 2) {
            data = abi.encodeCall(ESCROW.finalize, (terms));
        } else if (what == 3) {
            data = abi.encodeCall(ESCROW.slash, (terms));
        } else if (what == 4) {
            (by, data) = (terms.parties.requester, abi.encodeCall(ESCROW.dispute, (terms)));
        } else {
            uint96 slashed = uint96(seed % (uint256(terms.money.collateral) + 1));
            (by, data) = (terms.parties.arbiter, abi.encodeCall(ESCROW.rule, (terms, slashed)));
        }
        vm.prank(by);
        (bool done,) = address(ESCROW).call(data);
        _count("close", done);
    }
}
